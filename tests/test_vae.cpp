// SPDX-License-Identifier: MIT
// Thin autoencoders against PyTorch's numbers: every layer, every layout, streamed and whole, in bands and not; and what is refused.
#include "fixtures.h"

#include <map>

#include "models/thin_vae.h"
#include "tools/lib/npz.h"
#include "weights_writer.h"

namespace folio {
namespace {

// An array [..., C, H, W] of a golden file as [N, H, W, C].
struct Clip {
  Shape shape;
  std::vector<float> numbers;
  Tensor tensor() const { return Tensor::of(F32, shape, const_cast<float*>(numbers.data())); }
};

Clip channels_last(const std::vector<int64_t>& dims, const std::vector<float>& from) {
  int64_t n = 1;
  for (size_t i = 0; i + 3 < dims.size(); ++i) n *= dims[i];
  const int64_t C = dims[dims.size() - 3], H = dims[dims.size() - 2], W = dims[dims.size() - 1];
  Clip clip{{n, H, W, C}, std::vector<float>(from.size())};
  for (int64_t i = 0; i < n * C * H * W; ++i) {
    const int64_t col = i % W, row = i / W % H, c = i / (W * H) % C, frame = i / (W * H * C);
    clip.numbers[size_t(((frame * H + row) * W + col) * C + c)] = from[size_t(i)];
  }
  return clip;
}

Clip from_npz(const fs::path& path, const std::string& name) {
  const Array array = Npz(path.string()).read(name);
  return channels_last(array.dims, {array.numbers.begin(), array.numbers.end()});
}

// NumPy's .npy of float32 or bytes, version 1.0, C order.
Clip from_npy(const fs::path& path) {
  const std::string file = read_file(path.string());
  const size_t head = 10 + uint8_t(file[8]) + 256 * size_t(uint8_t(file[9]));
  const std::string text = file.substr(10, head - 10);
  std::vector<int64_t> dims;
  for (const char* at = text.c_str() + text.find('(') + 1; *at != ')';) {
    char* end;
    dims.push_back(std::strtoll(at, &end, 10));
    at = end + std::strspn(end, ", ");
  }
  const bool bytes = text.find("|u1") != std::string::npos;
  std::vector<float> numbers((file.size() - head) / (bytes ? 1 : sizeof(float)));
  if (bytes) std::transform(file.begin() + long(head), file.end(), numbers.begin(), [](char c) { return float(uint8_t(c)) / 255; });
  else std::memcpy(numbers.data(), file.data() + head, numbers.size() * sizeof(float));
  return channels_last(dims, numbers);
}

// A file's autoencoder on a CPU.
struct Vae {
  Weights weights;
  std::unique_ptr<Device> device;
  ThinVae vae;
  explicit Vae(const std::string& path, const VaeOptions& options = {}, std::unique_ptr<Device> on = cpu(2))
      : weights(path), device(std::move(on)), vae(weights, *device, options) {}

  std::vector<float> decode(const Clip& latents) const {
    std::vector<float> all;
    const size_t frame = size_t(latents.shape[1] * latents.shape[2] * vae.spatial() * vae.spatial() * 3);
    int64_t next = 0;
    vae.decode(latents.tensor(), [&](int64_t index, const float* rgb) {
      EXPECT_EQ(index, next++);
      all.insert(all.end(), rgb, rgb + frame);
      return true;
    });
    EXPECT_EQ(next, vae.frames_of(latents.shape[0]));
    return all;
  }
  std::vector<float> encode(const Clip& frames) const {
    std::vector<float> all;
    const size_t latent = size_t(frames.shape[1] / vae.spatial() * (frames.shape[2] / vae.spatial()) * vae.latent());
    int64_t next = 0;
    vae.encode(frames.tensor(), [&](int64_t index, const float* z) {
      EXPECT_EQ(index, next++);
      all.insert(all.end(), z, z + latent);
      return true;
    });
    EXPECT_EQ(next, vae.latents_of(frames.shape[0]));
    return all;
  }
};

fs::path golden() { return source_dir() / "tests/golden/video"; }

// The outputs of a net's layers on a clip, by their places in the file's list: "decoder.5" -> [N, H, W, C].
std::map<std::string, std::vector<float>> layers(const VaeNet& net, Device& device, const Clip& x) {
  auto graph = std::make_unique<Graph>();
  graph->output("y", net.record_full(graph->input("x", F32, x.shape)));
  const auto program = device.compile(std::move(graph));
  std::copy(x.numbers.begin(), x.numbers.end(), program->input("x").at<float>());
  std::map<std::string, std::vector<float>> out;
  program->trace([&](const TracedNode& node) {
    const Tensor& y = node.outputs.back().second;
    out[node.scope] = {y.at<float>(), y.at<float>() + y.count()};
  });
  return out;
}

// The layers of golden files NAME_enc_layerII.npy that the engine has: a relu belongs to its convolution, an enlargement and a grow to the
// one behind them.
int compare_layers(const fs::path& dir, const std::string& stem, const std::map<std::string, std::vector<float>>& found, const std::string& half,
                   const std::map<int, int>& relu_of) {
  int compared = 0;
  for (int i = 0; i < 30; ++i) {
    const fs::path file = dir / (stem + "_layer" + (i < 10 ? "0" : "") + std::to_string(i) + ".npy");
    if (!fs::exists(file)) continue;
    const auto behind = std::find_if(relu_of.begin(), relu_of.end(), [&](const auto& r) { return r.first == i || r.second == i; });
    if (behind != relu_of.end() && behind->second == i) continue;   // before its relu
    const auto it = found.find(join(half, ".", behind != relu_of.end() ? behind->second : i));
    if (it == found.end()) continue;
    EXPECT_LT(worst_difference(it->second, from_npy(file).numbers), 1e-4f) << file.filename();
    ++compared;
  }
  return compared;
}

const std::map<int, int> encoder_relus = {{1, 0}}, decoder_relus = {{2, 1}, {21, 20}};

TEST(ThinVae, EveryLayerOfTaehvEqualsPyTorch) {
  const fs::path shared = shared_dir().empty() ? fs::path() : shared_dir() / "golden/video/taehv_mini";
  const bool all = fs::exists(shared);
  const fs::path dir = all ? shared : golden() / "taehv_mini";
  const std::string file = convert(golden() / "taehv_mini/base.safetensors", "base");
  Vae v(file);
  EXPECT_EQ(v.vae.latent(), 4);
  EXPECT_EQ(v.vae.spatial(), 8);
  EXPECT_EQ(v.vae.time(), 4);
  const VaeNet decoder(v.weights, "decoder", F32), encoder(v.weights, "encoder", F32);
  const Clip z = from_npy(dir / "base_dec_in.npy"), frames = from_npy(dir / "base_enc_in.npy");
  EXPECT_GE(compare_layers(dir, "base_dec", layers(decoder, *v.device, z), "decoder", decoder_relus), all ? 15 : 5);
  Clip filled = frames;   // 9 frames: the last one three times more
  const size_t one = filled.numbers.size() / 9;
  for (int i = 0; i < 3; ++i) filled.numbers.insert(filled.numbers.end(), frames.numbers.end() - long(one), frames.numbers.end());
  filled.shape.dim[0] = 12;
  EXPECT_GE(compare_layers(dir, "base_enc", layers(encoder, *v.device, filled), "encoder", encoder_relus), all ? 13 : 3);
}

struct Golden {
  std::string name;
  Clip dec_in, dec_out, enc_in, enc_out;
  std::string file;
};

Golden load_golden(const std::string& name) {
  Golden g{.name = name};
  std::map<std::string, Clip*> parts = {{"dec_in", &g.dec_in}, {"dec_out", &g.dec_out}, {"enc_in", &g.enc_in}, {"enc_out", &g.enc_out}};
  const bool mini = name == "base";
  for (auto& [part, clip] : parts)
    *clip = mini ? from_npy(golden() / "taehv_mini" / ("base_" + part + ".npy")) : from_npz(golden() / (name + ".npz"), part);
  g.file = convert(golden() / (mini ? "taehv_mini/base.safetensors" : name + ".safetensors"), name);
  return g;
}

class Layouts : public testing::TestWithParam<std::string> {};

TEST_P(Layouts, StreamedWholeAndInBandsEqualPyTorch) {
  const Golden g = load_golden(GetParam());
  const Vae v(g.file);
  const auto frames = v.decode(g.dec_in), latents = v.encode(g.enc_in);
  EXPECT_LT(worst_difference(frames, g.dec_out.numbers), 1e-4f);
  EXPECT_LT(worst_difference(latents, g.enc_out.numbers), 1e-4f);
  EXPECT_LE(worst_difference(v.vae.decode_full(g.dec_in.tensor()), frames), 1e-6f);
  EXPECT_LE(worst_difference(v.vae.encode_full(g.enc_in.tensor()), latents), 1e-6f);
}

// Images of 64 rows of latents, which have many bands. The limit is what the widest bands want, then the least there is.
TEST_P(Layouts, BandsChangeNothing) {
  const std::string file = convert(golden() / (GetParam() == "base" ? "taehv_mini/base.safetensors" : GetParam() + ".safetensors"), GetParam());
  const Vae whole(file);
  const int64_t z = whole.vae.latent(), h = 96 / whole.vae.spatial() * 2, w = std::max<int64_t>(1, 16 / whole.vae.spatial());
  Clip latents{{3, h, w, z}, std::vector<float>(size_t(3 * h * w * z))}, frames{{5, h * whole.vae.spatial(), w * whole.vae.spatial(), 3}, {}};
  uint64_t random = 7;
  const auto draw = [&] { return float((random = random * 6364136223846793005u + 1442695040888963407u) >> 40) / float(1 << 24); };
  for (float& x : latents.numbers) x = 3 * draw() - 1.5f;
  frames.numbers.resize(size_t(frames.shape.count()));
  for (float& x : frames.numbers) x = draw();
  const auto decoded = whole.decode(latents), encoded = whole.encode(frames);
  const int64_t most = std::max(whole.vae.decode_bytes(h, w), whole.vae.encode_bytes(frames.shape[1], frames.shape[2]));
  int banded = 0;
  for (int64_t limit = most - 1; limit > 1000; limit -= most / 12) {
    std::string refused;
    try {
      const Vae v(file, {.limit = limit});
      banded += VaeDecoder(v.vae, 3, h, w).banded();
      EXPECT_LE(v.vae.decode_bytes(h, w), limit + most / 4);
      EXPECT_LE(worst_difference(v.decode(latents), decoded), 0.0f) << limit << " of " << most;
      EXPECT_LE(worst_difference(v.encode(frames), encoded), 0.0f) << limit << " of " << most;
    } catch (const Error& e) {
      refused = e.what();
      EXPECT_NE(refused.find("in the narrowest bands, and the limit is"), std::string::npos) << refused;
      break;
    }
  }
  EXPECT_GE(banded, 1);
}

INSTANTIATE_TEST_SUITE_P(Vae, Layouts, testing::Values("base", "taew2_2", "taeltx", "super", "taesd", "taef2", "deep"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace folio
