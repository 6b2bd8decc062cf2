// SPDX-License-Identifier: MIT
// Thin autoencoders against PyTorch's numbers: every layer, every layout, streamed and whole, in bands and not; and what is refused.
#include "fixtures.h"

#include <map>

#include "base/random.h"
#include "models/thin_vae.h"
#include "tools/lib/npz.h"
#include "tools/lib/random_vae.h"
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
int compare_layers(const fs::path& dir, const std::string& stem, const std::map<std::string, std::vector<float>>& found,
                   const std::string& half, const std::map<int, int>& relu_of) {
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
  const std::string name = GetParam();
  const std::string file = convert(golden() / (name == "base" ? "taehv_mini/base.safetensors" : name + ".safetensors"), name);
  const Vae whole(file);
  const int64_t z = whole.vae.latent(), s = whole.vae.spatial(), h = 96 / s * 2, w = std::max<int64_t>(1, 16 / s);
  Clip latents{{3, h, w, z}, std::vector<float>(size_t(3 * h * w * z))}, frames{{5, h * s, w * s, 3}, {}};
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

TEST(ThinVae, WeightsOfSixteenBits) {
  const Golden g = load_golden("base");
  for (const auto& [type, most] : std::map<DType, float>{{F16, 2e-3f}, {BF16, 2e-2f}}) {
    const Vae v(g.file, {.weights = type});
    EXPECT_LT(worst_difference(v.decode(g.dec_in), g.dec_out.numbers), most) << format(type).name;
    EXPECT_LE(worst_difference(v.vae.decode_full(g.dec_in.tensor()), v.decode(g.dec_in)), 1e-6f) << format(type).name;
  }
}

TEST(ThinVae, TheReferenceDeviceAgrees) {
  const Golden g = load_golden("base");
  const Vae fast(g.file), slow(g.file, {}, reference(2));
  EXPECT_LT(worst_difference(slow.decode(g.dec_in), fast.decode(g.dec_in)), 1e-5f);
  EXPECT_LT(worst_difference(slow.encode(g.enc_in), fast.encode(g.enc_in)), 1e-5f);
}

double psnr(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
  return -10 * std::log10(sum / double(a.size()));
}

// Trained weights on real pictures.
struct Taef2 {
  fs::path dir = shared_dir() / "golden/video/taef2";
  std::optional<Vae> vae;
  Taef2() {
    const fs::path weights = shared_dir() / "models/taef2";
    const std::string other = (weights / "taef2_decoder.safetensors").string();
    if (fs::exists(dir)) vae.emplace(convert(weights / "taef2_encoder.safetensors", "real_taef2", other));
  }
};

TEST(ThinVae, RealTaef2Layers) {
  if (shared_dir().empty()) GTEST_SKIP() << "no shared folder with taef2 beside the repository";
  const Taef2 real;
  const VaeNet decoder(real.vae->weights, "decoder", F32), encoder(real.vae->weights, "encoder", F32);
  const Clip picture = from_npy(real.dir / "enc_in.npy"), latent = from_npy(real.dir / "enc_out.npy");
  EXPECT_GE(compare_layers(real.dir, "enc", layers(encoder, *real.vae->device, picture), "encoder", {}), 7);
  EXPECT_GE(compare_layers(real.dir, "dec", layers(decoder, *real.vae->device, latent), "decoder", {{2, 1}}), 7);
  EXPECT_LT(worst_difference(real.vae->encode(picture), latent.numbers), 1e-4f);
}

// Five frames of a real clip come back with 31.57 dB.
TEST(ThinVae, RealTaef2Frames) {
  if (shared_dir().empty()) GTEST_SKIP() << "no shared folder with taef2 beside the repository";
  const Taef2 real;
  const Clip frames = from_npy(real.dir / "vid5_256_in.npy");
  Clip latents = from_npy(real.dir / "vid5_256_lat.npy");
  const auto mine = real.vae->encode(frames);
  EXPECT_LT(rms_difference(mine, latents.numbers), 1e-2);   // those were computed in 16 bits
  latents.numbers = mine;
  const auto back = real.vae->decode(latents);
  EXPECT_NEAR(psnr(back, frames.numbers), 31.57, 0.05);
  EXPECT_GT(psnr(back, from_npy(real.dir / "vid5_256_dec_u8.npy").numbers), 55);   // those are rounded to bytes
}

// A clip of our own kind is filled up in front: latent t stands for the frames that it decodes to.
TEST(ThinVae, PaddingInFront) {
  if (shared_dir().empty()) GTEST_SKIP() << "no shared folder with proto beside the repository";
  const fs::path dir = shared_dir() / "golden/video/proto", part = scratch_dir() / "proto.safetensors";
  const char* python = std::getenv("FOLIO_PYTHON");
  const std::string whole = (dir / "vg_proto.safetensors").string();
  const Ran ran = run_command(join(python ? python : "python3", " -c \"from safetensors.numpy import load_file, save_file; ",
                                   "save_file({k: v for k, v in load_file('", whole, "').items() if k.startswith(('vae.e', 'vae.d'))}, '", part.string(),
                                   "', {'pad': 'front'})\""));
  ASSERT_EQ(ran.code, 0) << ran.output;
  const Vae v(convert(part, "proto"));
  const Clip frames = from_npy(dir / "vae_in.npy"), latents = from_npy(dir / "vae_lat.npy");
  EXPECT_EQ(v.vae.latents_of(frames.shape[0]), 5);
  EXPECT_LT(worst_difference(v.encode(frames), latents.numbers), 1e-4f);
  std::vector<float> want = from_npy(dir / "vae_out.npy").numbers;
  for (float& x : want) x = std::clamp(x, 0.0f, 1.0f);
  EXPECT_LT(worst_difference(v.decode(latents), want), 1e-4f);
  EXPECT_LE(worst_difference(v.vae.encode_full(frames.tensor()), v.encode(frames)), 1e-6f);
}

TEST(ThinVae, FramesAndSizes) {
  const Vae v(convert(golden() / "taehv_mini/base.safetensors", "base"));
  EXPECT_EQ(v.vae.frames_of(1), 1);
  EXPECT_EQ(v.vae.frames_of(5), 17);
  EXPECT_EQ(v.vae.latents_of(17), 5);
  EXPECT_EQ(v.vae.latents_of(18), 5);
  EXPECT_EQ(v.vae.legal_frames(24), 25);
  EXPECT_EQ(v.vae.legal_frames(-3), 1);
  EXPECT_EQ(v.vae.legal_side(100), 104);
  EXPECT_EQ(v.vae.legal_side(1), 8);
  fs::copy_file(golden() / "taehv_mini/base.safetensors", scratch_dir() / "taecvx.safetensors", fs::copy_options::overwrite_existing);
  const Vae cog(convert(scratch_dir() / "taecvx.safetensors", "taecvx"));
  EXPECT_EQ(cog.vae.frames_of(2), 8);
  EXPECT_EQ(cog.vae.frames_of(3), 9);
  const Clip two{{2, 6, 5, 4}, std::vector<float>(240, 0.5f)};
  const auto trimmed = v.decode(two), all = cog.decode(two);
  const size_t frame = trimmed.size() / 5;
  ASSERT_EQ(all.size(), 8 * frame);
  EXPECT_EQ(std::vector<float>(all.begin() + long(3 * frame), all.end()), trimmed);
}

// [T, H, W, C] through a convolution of 3x3x3, zeros all around.
Clip volume(const Clip& x, const std::vector<float>& w, const std::vector<float>& bias, bool relu) {
  const int64_t T = x.shape[0], H = x.shape[1], W = x.shape[2], in = x.shape[3], out = int64_t(bias.size());
  Clip y{{T, H, W, out}, std::vector<float>(size_t(T * H * W * out))};
  for (int64_t i = 0; i < T * H * W * out; ++i) {
    const int64_t o = i % out, col = i / out % W, row = i / (out * W) % H, t = i / (out * W * H);
    double sum = bias[size_t(o)];
    for (int64_t tap = 0; tap < 27; ++tap) {
      const int64_t n = t + tap / 9 - 1, r = row + tap / 3 % 3 - 1, c = col + tap % 3 - 1;
      if (n < 0 || n >= T || r < 0 || r >= H || c < 0 || c >= W) continue;
      const float* pixel = x.numbers.data() + ((n * H + r) * W + c) * in;
      for (int64_t k = 0; k < in; ++k) sum += double(pixel[k]) * w[size_t((tap * in + k) * out + o)];
    }
    y.numbers[size_t(i)] = relu && sum < 0 ? 0 : float(sum);
  }
  return y;
}

// The seeds' decoders see the frame after: what comes out frame by frame, late and to the last, is what the whole clip comes to.
TEST(Volumes, StreamedAndWholeAreThePlainSums) {
  uint64_t next = 0;
  for (const auto& [middle, relu, clip] : {std::tuple(8, false, Shape{4, 3, 5, 32}), {32, true, {1, 4, 2, 32}}, {8, true, {2, 1, 1, 32}}}) {
    const auto numbers = [&](int64_t n, float spread, float at = 0) {
      std::vector<float> all;
      for (int64_t i = 0; i < n; ++i) all.push_back(at + spread * normal(3, next++));
      return all;
    };
    const int64_t c = middle;
    const auto w1 = numbers(27 * 32 * c, 0.03f), b1 = numbers(c, 0.1f);
    const auto w2 = numbers(27 * c * 3, 0.1f / float(c)), b2 = numbers(3, 0.05f, 0.5f);
    WeightsWriter file;
    file.meta("arch", "thin").meta("vae.latent", 32);
    file.meta("vae.decoder", relu ? std::vector<std::string>{"volume", "relu", "volume"} : std::vector<std::string>{"volume", "volume"});
    file.tensor("decoder.0.weight", {27, 32, c}, w1).tensor("decoder.0.bias", {c}, b1);
    file.tensor(join("decoder.", relu ? 2 : 1, ".weight"), {27, c, 3}, w2).tensor(join("decoder.", relu ? 2 : 1, ".bias"), {3}, b2);
    const std::string path = (scratch_dir() / "volumes.folio").string();
    file.save(path);
    const Vae v(path);
    EXPECT_EQ(v.vae.frames_of(7), 7);
    EXPECT_FALSE(v.vae.encodes());
    const Clip x{clip, numbers(clip.count(), 1)};
    const Clip y = volume(volume(x, w1, b1, relu), w2, b2, false);
    EXPECT_GT(*std::min_element(y.numbers.begin(), y.numbers.end()), 0);   // or the clamping of frames would hide something
    EXPECT_LT(*std::max_element(y.numbers.begin(), y.numbers.end()), 1);
    EXPECT_LT(worst_difference(v.decode(x), y.numbers), 1e-5f) << clip.text();
    EXPECT_LT(worst_difference(v.vae.decode_full(x.tensor()), y.numbers), 1e-5f) << clip.text();
    EXPECT_EQ(v.decode(x), v.decode(x)) << "something was left over";
    const Vae limited(path, {.limit = 64 << 20});
    EXPECT_EQ(limited.decode(x), v.decode(x));
    EXPECT_EQ(VaeDecoder(v.vae, 2, 6, 5).bytes(), VaeDecoder(v.vae, 200, 6, 5).bytes());
    int seen = 0;
    v.vae.decode(x.tensor(), [&](int64_t, const float*) { return ++seen < 2; });
    EXPECT_EQ(seen, std::min<int64_t>(2, clip[0]));
  }
}

TEST(Volumes, OfACheckpointAreThoseOfPyTorch) {
  const std::string file = convert(golden() / "thin.safetensors", "thin");
  const Vae v(file);
  EXPECT_EQ(v.vae.latent(), 32);
  EXPECT_EQ(v.vae.spatial(), 1);
  EXPECT_EQ(v.vae.time(), 1);
  const Clip x = from_npz(golden() / "thin.npz", "dec_in"), y = from_npz(golden() / "thin.npz", "dec_out");
  EXPECT_LT(worst_difference(v.decode(x), y.numbers), 1e-5f);
  EXPECT_LT(worst_difference(v.vae.decode_full(x.tensor()), y.numbers), 1e-5f);
}

TEST(ThinVae, ASinkStops) {
  const Vae v(convert(golden() / "taehv_mini/base.safetensors", "base"));
  const Clip latents{{3, 2, 2, 4}, std::vector<float>(48, 0.1f)};
  int seen = 0;
  v.vae.decode(latents.tensor(), [&](int64_t, const float*) { return ++seen < 3; });
  EXPECT_EQ(seen, 3);
}

// What bytes() says does not depend on the number of frames, and no run asks for more memory.
TEST(ThinVae, MemoryDoesNotGrow) {
  const Vae v(convert(golden() / "taehv_mini/base.safetensors", "base"));
  EXPECT_EQ(VaeDecoder(v.vae, 2, 6, 5).bytes(), VaeDecoder(v.vae, 200, 6, 5).bytes());
  EXPECT_EQ(v.vae.decode_bytes(6, 5), VaeDecoder(v.vae, 2, 6, 5).bytes());
}

std::string refusal(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(ThinVae, BadLatentsAndFrames) {
  const Vae v(convert(golden() / "taehv_mini/base.safetensors", "base"));
  std::vector<float> numbers(5 * 8 * 8 * 16);
  const auto decode = [&](const Shape& shape) {
    return refusal([&] { v.vae.decode(Tensor::of(F32, shape, numbers.data()), [](int64_t, const float*) { return true; }); });
  };
  const auto encode = [&](const Shape& shape) {
    return refusal([&] { v.vae.encode(Tensor::of(F32, shape, numbers.data()), [](int64_t, const float*) { return true; }); });
  };
  EXPECT_NE(decode({2, 3, 3, 16}).find("latents have 16 channels, but the autoencoder"), std::string::npos);
  EXPECT_NE(decode({3, 3, 4}).find("expected f32 [latents, rows, columns, 4]"), std::string::npos);
  EXPECT_NE(decode({0, 3, 3, 4}).find("latents are f32 [0,3,3,4]"), std::string::npos);
  EXPECT_NE(encode({1, 12, 16, 3}).find("frames are 16 by 12 pixels, expected multiples of 8: 16 by 16 is the nearest"), std::string::npos);
  EXPECT_NE(encode({1, 16, 16, 4}).find("expected f32 [frames, rows, columns, 3]"), std::string::npos);
  const Vae small(v.weights.path(), {.limit = 100000});
  EXPECT_NE(refusal([&] { small.vae.decode_bytes(64, 64); }).find("in the narrowest bands, and the limit is"), std::string::npos);
}

// A file whose metadata and tensors do not fit together.
TEST(ThinVae, BadFiles) {
  const auto device = cpu(1);
  const auto load = [&](const WeightsWriter& writer) {
    const std::string file = writer.bytes();
    return refusal([&] { ThinVae(Weights("f", as_bytes(file)), *device); });
  };
  const auto decoder = [](std::vector<std::string> layers) {
    WeightsWriter w;
    w.meta("arch", "taesd").meta("vae.latent", 2).meta("vae.decoder", MetaValue(std::move(layers)));
    return w.tensor("decoder.0.weight", {9, 2, 3}, std::vector<float>(54, 0.1f));
  };
  EXPECT_EQ(load(decoder({"conv"})), "");
  EXPECT_NE(load(decoder({"conv", "odd"})).find("vae.decoder has the layer 'odd' at 1"), std::string::npos);
  EXPECT_NE(load(decoder({"conv", "conv"})).find("there is no tensor 'decoder.1.weight'"), std::string::npos);
  EXPECT_NE(load(decoder({"conv", "up"})).find("an 'up' that no 'conv' follows"), std::string::npos);
  EXPECT_NE(load(decoder({"conv", "pool"})).find("a 'pool' that no 'down' follows"), std::string::npos);
  EXPECT_NE(load(decoder({"conv"}).meta("vae.spatial", 8)).find("vae.spatial comes to 8, but the layers to 1"), std::string::npos);
  EXPECT_NE(load(decoder({"conv"}).meta("vae.pad", "left")).find("vae.pad is 'left'"), std::string::npos);
  EXPECT_NE(load(decoder({"conv"}).meta("vae.patch", 2)).find("3 channels cannot be shuffled by 2"), std::string::npos);
  WeightsWriter empty;
  EXPECT_NE(load(empty.meta("vae.latent", 2)).find("neither an encoder nor a decoder"), std::string::npos);
  WeightsWriter wrong = decoder({"conv"});
  wrong.tensors.clear();
  wrong.tensor("decoder.0.weight", {9, 3, 3}, std::vector<float>(81));
  EXPECT_NE(load(wrong).find("'decoder.0.weight' is f32 [9,3,3], expected [taps,2,any]"), std::string::npos);
  wrong.tensors.clear();
  wrong.tensor("decoder.0.weight", {8, 2, 3}, std::vector<float>(48));
  EXPECT_NE(load(wrong).find("has 8 taps, expected 1, 9, 25 or 49"), std::string::npos);
}

// The true widths, with random weights: what bench measures.
TEST(ThinVae, FullWidth) {
  EXPECT_EQ(vae_decoder_macs({}), 43601920);
  const auto device = cpu(2);
  const Weights weights = random_vae();
  const ThinVae vae(weights, *device);
  EXPECT_EQ(vae.latent(), 16);
  int64_t numbers = 0;
  for (const WeightEntry& e : weights.tensors()) numbers += e.tensor.count();
  EXPECT_EQ(numbers, 1470928 + 9844611);
  // 480 x 832 pixels in a quarter of a gigabyte, the program's own few megabytes aside.
  const ThinVae tight(weights, *device, {.limit = 235000000, .encoder = false});
  EXPECT_FALSE(tight.encodes());
  EXPECT_LE(tight.decode_bytes(60, 104), 235000000);
}

}  // namespace
}  // namespace folio
