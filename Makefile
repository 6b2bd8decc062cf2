# The short door to the house. `make help` lists what there is.
BUILD ?= build
PRESET ?= release
JOBS ?= $(shell nproc)
MODEL ?= $(firstword $(wildcard models/weights/*text*.folio))
PROMPT ?= ROMEO:
VIDEO_MODEL ?= $(firstword $(wildcard models/weights/*shapes*.folio))
VIDEO_PROMPT ?= a red circle bouncing
VIDEO ?= $(BUILD)/clip.gif
VENV := $(BUILD)/venv
PACKAGES := g++ cmake make pkg-config python3 python3-venv libgtest-dev libcli11-dev nlohmann-json3-dev libxxhash-dev libstb-dev libpcre2-dev libutf8proc-dev

.PHONY: all build run run-video test test-fast bench format op fuzz packages venv clean help
all: build

help:
	@echo 'make            build everything into $(BUILD)/bin'
	@echo 'make run        install missing system packages (when allowed), build, generate text with the shipped model'
	@echo 'make run-video  likewise a clip: VIDEO_PROMPT="a red circle bouncing" VIDEO=build/clip.gif'
	@echo 'make test       the whole test suite (ctest and the Python tests)'
	@echo 'make test-fast  its quicker part: no simulated card, fuzzing or Python'
	@echo 'make bench      speed of a 1B shape on this machine; TYPE=q8_0 for one format'
	@echo 'make format     clang-format over our sources'
	@echo 'make op NAME=x  the files of a new op, with their first lines'
	@echo 'make fuzz       libFuzzer targets with clang, into $(BUILD)-fuzz/bin'

# Installs what is missing when it may (root or password-free sudo), else says what to install.
packages:
	@missing=""; for p in $(PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ]; then sudo=""; elif sudo -n true 2>/dev/null; then sudo="sudo -n"; else \
	  echo "folio: these system packages are missing, please install them:$$missing" >&2; exit 1; fi; \
	echo "folio: installing$$missing"; \
	$$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing >/dev/null

build: packages
	@cmake --preset $(PRESET) -B $(BUILD) >/dev/null
	@cmake --build $(BUILD) -j $(JOBS)

venv: packages
	@[ -f $(VENV)/done ] && [ $(VENV)/done -nt tools/requirements.txt ] || \
	  { python3 -m venv $(VENV) && $(VENV)/bin/pip install -q --disable-pip-version-check -r tools/requirements.txt && touch $(VENV)/done; }

run: build
	@[ -n "$(MODEL)" ] || { echo "folio: no model in models/weights; pass MODEL=file.folio" >&2; exit 1; }
	$(BUILD)/bin/generate -m $(MODEL) -p "$(PROMPT)" -n 200 --temp 0.8 -s 1

run-video: build
	@[ -n "$(VIDEO_MODEL)" ] || { echo "folio: no video model in models/weights; pass VIDEO_MODEL=file.folio" >&2; exit 1; }
	@$(BUILD)/bin/videogen -m $(VIDEO_MODEL) -p "$(VIDEO_PROMPT)" -s 1 -o $(VIDEO)
	@echo "the clip is in $(abspath $(VIDEO))"

test: build venv
	@FOLIO_PYTHON=$(abspath $(VENV))/bin/python ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

test-fast: build venv
	@FOLIO_PYTHON=$(abspath $(VENV))/bin/python ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS) -L fast

bench: build
	$(BUILD)/bin/bench model --shape 1b $(if $(TYPE),--type $(TYPE))

format:
	@git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs clang-format -i

op:
	@python3 tools/new_op.py $(NAME)

fuzz:
	@cmake -S . -B $(BUILD)-fuzz -DCMAKE_CXX_COMPILER=clang++ -DFOLIO_FUZZ=ON >/dev/null && cmake --build $(BUILD)-fuzz -j $(JOBS) --target fuzz_weights fuzz_tokenizer fuzz_picture fuzz_clip

clean:
	rm -rf $(BUILD) $(BUILD)-fuzz
