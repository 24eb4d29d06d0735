/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Samples pictures with openvino.genai's pipeline and schedulers of DiffusionScheduling, and compares both libraries.
 *
 *     pictures MODEL FOLDER [SCHEDULER ...]
 *
 * MODEL is a model's folder; FOLDER receives the pictures. SCHEDULER is the name of a class or of a sampler; each gives a picture.
 * Without names the program also compares with the engine's own schedulers: pictures, image-to-image, timesteps of transformers'
 * runs, and the time of a step. It fails if the two differ by more than float32 rounding.
 */
#include "diffusion_scheduling_genai.hpp"

#include <chrono>
#include <fstream>
#include <functional>
#include <iostream>
#include <random>

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t N_STEPS = 20;
constexpr int64_t SIZE = 256;
constexpr char PROMPT[] = "a picture of the sea";

/* Largest difference that float32 explains, relative to the largest number: a run rounds about 40 times, and the model passes
 * errors on with a factor near 1. The two libraries' tables of training levels also differ in their last bit. */
constexpr double TOLERANCE = 1e-5;

double microseconds_since(Clock::time_point begin) {
    return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

/* A scheduler that forwards every call, measures the steps, and keeps the last step's latents. */
class Timed final : public ov::genai::IScheduler {
  public:
    explicit Timed(std::shared_ptr<ov::genai::IScheduler> inner) : inner_(std::move(inner)) {}

    double step_microseconds = 0;
    size_t n_steps = 0;
    std::vector<float> latents;

    void set_timesteps(size_t n, float strength) override { inner_->set_timesteps(n, strength); }
    float get_init_noise_sigma() const override { return inner_->get_init_noise_sigma(); }
    void scale_model_input(ov::Tensor sample, size_t step) override { inner_->scale_model_input(sample, step); }
    std::map<std::string, ov::Tensor> step(ov::Tensor output, ov::Tensor sample, size_t step,
                                           std::shared_ptr<ov::genai::Generator> generator) override {
        const auto begin = Clock::now();
        auto result = inner_->step(output, sample, step, generator);
        step_microseconds += microseconds_since(begin);
        n_steps++;
        /* Not in a callback: under load, the pipeline calls it when the next step has changed the tensor. */
        const ov::Tensor &next = result.at("latent");
        latents.assign(next.data<float>(), next.data<float>() + next.get_size());
        return result;
    }
    void add_noise(ov::Tensor sample, ov::Tensor noise, int64_t timestep) const override {
        inner_->add_noise(sample, noise, timestep);
    }
    void set_timesteps(size_t length, size_t n, float strength) override { inner_->set_timesteps(length, n, strength); }
    void set_timesteps_with_mu(double mu, size_t n, float strength) override { inner_->set_timesteps_with_mu(mu, n, strength); }
    double calculate_shift(size_t length) override { return inner_->calculate_shift(length); }
    std::vector<int64_t> get_timesteps() const override { return inner_->get_timesteps(); }
    std::vector<float> get_float_timesteps() override { return inner_->get_float_timesteps(); }
    void scale_noise(ov::Tensor sample, float timestep, ov::Tensor noise) override { inner_->scale_noise(sample, timestep, noise); }
    void set_begin_index(size_t index) override { inner_->set_begin_index(index); }

  private:
    std::shared_ptr<ov::genai::IScheduler> inner_;
};

struct Picture {
    std::vector<unsigned char> levels;
    std::vector<float> latents;
    size_t width = 0, height = 0, n_evaluations = 0;
    double seconds = 0, step_microseconds = 0;
};

Picture sample(ov::genai::Text2ImagePipeline &pipeline, const std::shared_ptr<ov::genai::IScheduler> &scheduler) {
    Picture picture;
    const auto timed = std::make_shared<Timed>(scheduler);
    pipeline.set_scheduler(timed);
    const auto begin = Clock::now();
    const ov::Tensor image = pipeline.generate(PROMPT, ov::AnyMap{{"num_inference_steps", N_STEPS},
                                                                  {"width", SIZE},
                                                                  {"height", SIZE},
                                                                  {"guidance_scale", 5.0f},
                                                                  {"rng_seed", size_t{42}}});
    picture.seconds = microseconds_since(begin) / 1e6;
    picture.step_microseconds = timed->step_microseconds / static_cast<double>(timed->n_steps);
    picture.n_evaluations = timed->n_steps;
    picture.latents = timed->latents;
    picture.height = image.get_shape()[1];
    picture.width = image.get_shape()[2];
    picture.levels.assign(image.data<unsigned char>(), image.data<unsigned char>() + image.get_size());
    return picture;
}

void write(const Picture &picture, const std::filesystem::path &file) {
    std::ofstream stream(file, std::ios::binary);
    stream << "P6\n" << picture.width << " " << picture.height << "\n255\n";
    stream.write(reinterpret_cast<const char *>(picture.levels.data()), static_cast<std::streamsize>(picture.levels.size()));
    stream.flush();
    if (!stream) throw std::runtime_error("the picture " + file.string() + " can't be written");
}

template <typename Number> double largest_difference(const std::vector<Number> &a, const std::vector<Number> &b) {
    if (a.size() != b.size()) return INFINITY;
    double largest = 0;
    for (size_t i = 0; i < a.size(); i++)
        largest = std::fmax(largest, std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    return largest;
}

double largest(const std::vector<float> &numbers) { return largest_difference(numbers, std::vector<float>(numbers.size())); }

std::string file_name(const std::string &name) {
    std::string result;
    for (char c : name) result += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
    return result + ".ppm";
}

void write_text(const std::filesystem::path &file, const std::string &text) {
    if (!(std::ofstream(file) << text).flush()) throw std::runtime_error("the file " + file.string() + " can't be written");
}

/* The engine's own scheduler for a file. */
std::shared_ptr<ov::genai::IScheduler> engine_scheduler(const std::filesystem::path &file, ov::genai::Scheduler::Type type) {
    auto scheduler = std::dynamic_pointer_cast<ov::genai::IScheduler>(ov::genai::Scheduler::from_config(file, type));
    if (!scheduler) throw std::runtime_error("the engine's scheduler isn't an IScheduler");
    return scheduler;
}

ov::Tensor normals(size_t width, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    ov::Tensor tensor(ov::element::f32, ov::Shape{1, 4, width, width});
    std::generate_n(tensor.data<float>(), tensor.get_size(), [&] { return normal(random); });
    return tensor;
}

/* The median time of a step, over several runs. */
double step_microseconds(ov::genai::IScheduler &scheduler, size_t width) {
    const ov::Tensor output = normals(width, 1);
    std::vector<double> times;
    for (int run = 0; run < 6; run++) {
        ov::Tensor latents = normals(width, 2);
        scheduler.set_timesteps(N_STEPS, 1.0f);
        for (size_t i = 0; i < N_STEPS; i++) {
            const auto begin = Clock::now();
            latents = scheduler.step(output, latents, i, nullptr)["latent"];
            if (run > 0) times.push_back(microseconds_since(begin));
        }
    }
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
    return times[times.size() / 2];
}

void make_pictures(ov::genai::Text2ImagePipeline &pipeline, const std::filesystem::path &model, const std::filesystem::path &folder,
                   const std::vector<std::string> &names) {
    std::printf("%-34s %11s %10s %10s  %s\n", "scheduler", "evaluations", "step us", "picture s", "picture");
    for (const std::string &name : names) {
        const Picture picture = sample(pipeline, diffusion_scheduling::make_genai_scheduler(model, name));
        const auto file = folder / file_name(name);
        write(picture, file);
        std::printf("%-34s %11zu %10.0f %10.3f  %s\n", name.c_str(), picture.n_evaluations, picture.step_microseconds,
                    picture.seconds, file.c_str());
    }
}

/* The betas of the model's file, written out. */
std::string trained_betas() {
    std::string text = "{\"trained_betas\": [";
    for (int i = 0; i < 1000; i++) {
        const double root = std::sqrt(0.00085) + (std::sqrt(0.012) - std::sqrt(0.00085)) * i / 999;
        char number[32];
        std::snprintf(number, sizeof number, "%s%.9g", i ? ", " : "", root * root);
        text += number;
    }
    return text + "]";
}

struct Rival {
    const char *class_name, *changes; /* members to add to the file's */
    ov::genai::Scheduler::Type type;
    bool has_betas;             /* whether the file lists the betas */
    const char *engine_differs; /* the reason if the engine's scheduler deviates from diffusers */
};

constexpr char SHORT_BETAS[] = "the engine's betas end before beta_end";
constexpr char ROUNDED[] = "the engine's levels belong to rounded timesteps";
constexpr Rival RIVALS[] = {
    {"DDIMScheduler", "", ov::genai::Scheduler::DDIM, true, nullptr},
    {"DDIMScheduler", "\"prediction_type\": \"v_prediction\"", ov::genai::Scheduler::DDIM, true, nullptr},
    {"EulerDiscreteScheduler", "", ov::genai::Scheduler::EULER_DISCRETE, true, nullptr},
    {"EulerAncestralDiscreteScheduler", "", ov::genai::Scheduler::EULER_ANCESTRAL_DISCRETE, true, nullptr},
    {"PNDMScheduler", "\"skip_prk_steps\": true", ov::genai::Scheduler::PNDM, true, nullptr},
    {"EulerDiscreteScheduler", "\"timestep_spacing\": \"linspace\"", ov::genai::Scheduler::EULER_DISCRETE, true, ROUNDED},
    {"DDIMScheduler", "", ov::genai::Scheduler::DDIM, false, SHORT_BETAS},
    {"EulerDiscreteScheduler", "", ov::genai::Scheduler::EULER_DISCRETE, false, SHORT_BETAS},
};

/* Pictures of both libraries' schedulers, with the values of the model's file and the rival's changes. */
bool compare_pictures(ov::genai::Text2ImagePipeline &pipeline, const std::filesystem::path &model,
                      const std::filesystem::path &folder) {
    std::printf("\n%-32s %-19s %-35s %10s %9s\n", "differences from the engine's", "betas of the file", "other values of the file",
                "latents", "255 levels");
    bool passed = true;
    const auto file = folder / "scheduler_config.json";
    for (const Rival &rival : RIVALS) {
        std::string changes = rival.has_betas ? trained_betas() : "{";
        if (*rival.changes) changes += (rival.has_betas ? ", " : "") + std::string(rival.changes);
        changes += "}";
        /* The engine reads a file: our scheduler's configuration, with all values. */
        const auto ours = diffusion_scheduling::make_genai_scheduler(model, rival.class_name, changes);
        write_text(file, ours->configuration());
        const Picture theirs = sample(pipeline, engine_scheduler(file, rival.type));
        const Picture mine = sample(pipeline, ours);
        const double latents = largest_difference(mine.latents, theirs.latents) / largest(theirs.latents);
        const double levels = largest_difference(mine.levels, theirs.levels);
        const bool equal = latents <= TOLERANCE && levels <= 1;
        passed = passed && (equal || rival.engine_differs);
        std::printf("%-32s %-19s %-35s %10.1e %9.0f  %s\n", rival.class_name, rival.has_betas ? "listed" : "start, end, schedule",
                    rival.changes, latents, levels,
                    rival.engine_differs ? rival.engine_differs
                    : equal              ? ""
                                         : "DIFFERS");
    }
    std::filesystem::remove(file);
    return passed;
}

/* The interface's functions for image-to-image: timesteps, noise added to a sample, and steps from there with random outputs. */
bool compare_image_to_image(const std::filesystem::path &model, const std::filesystem::path &folder) {
    std::printf("\n%-32s %12s %22s\n", "image-to-image", "strength", "difference of samples");
    bool passed = true;
    const auto file = folder / "scheduler_config.json";
    for (const Rival &rival : RIVALS) {
        if (!rival.has_betas || *rival.changes || rival.type == ov::genai::Scheduler::EULER_ANCESTRAL_DISCRETE) continue;
        const auto ours = diffusion_scheduling::make_genai_scheduler(model, rival.class_name, trained_betas() + "}");
        write_text(file, ours->configuration());
        const auto theirs = engine_scheduler(file, rival.type);
        for (float strength : {0.63f, 0.05f}) {
            std::vector<float> samples[2];
            std::vector<int64_t> timesteps[2];
            for (int i = 0; i < 2; i++) {
                ov::genai::IScheduler &scheduler = i ? *theirs : static_cast<ov::genai::IScheduler &>(*ours);
                scheduler.set_timesteps(N_STEPS, strength);
                timesteps[i] = scheduler.get_timesteps();
                ov::Tensor latents = normals(32, 1);
                scheduler.add_noise(latents, normals(32, 2), timesteps[i].front());
                for (size_t step = 0; step < timesteps[i].size(); step++) {
                    scheduler.scale_model_input(normals(32, 3), step);
                    latents = scheduler.step(normals(32, 4 + static_cast<unsigned>(step)), latents, step, nullptr)["latent"];
                }
                samples[i].assign(latents.data<float>(), latents.data<float>() + latents.get_size());
            }
            const double difference = largest_difference(samples[0], samples[1]) / largest(samples[1]);
            const bool equal = timesteps[0] == timesteps[1] && difference <= TOLERANCE;
            passed = passed && equal;
            std::printf("%-32s %12.2f %22.1e%s\n", rival.class_name, static_cast<double>(strength), difference,
                        equal ? "" : "  DIFFERS");
        }
    }
    std::filesystem::remove(file);
    return passed;
}

/* The levels of Flux's and of Stable Diffusion 3's pipelines, which depend on the number of tokens. */
bool compare_flow(const std::filesystem::path &folder) {
    const char *const files[] = {
        "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 3.0}",
        "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 3.0, \"use_dynamic_shifting\": true, \"base_shift\": "
        "0.5,"
        " \"max_shift\": 1.15, \"base_image_seq_len\": 256, \"max_image_seq_len\": 4096}",
        "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 3.0, \"use_dynamic_shifting\": true, \"base_shift\": "
        "0.5,"
        " \"max_shift\": 1.15, \"base_image_seq_len\": 256, \"max_image_seq_len\": 4096, \"time_shift_type\": \"exponential\"}",
    };
    const char *const titles[] = {"Stable Diffusion 3's run", "Flux' run, 1,024 tokens", "Flux 2's run, 1,024 tokens"};
    std::printf("\n%-32s %22s\n", "FlowMatchEulerDiscreteScheduler", "of timesteps, 0 to 1000");
    bool passed = true;
    const auto file = folder / "scheduler_config.json";
    for (size_t i = 0; i < std::size(files); i++) {
        write_text(file, files[i]);
        const auto theirs = engine_scheduler(file, ov::genai::Scheduler::AUTO);
        const auto ours = diffusion_scheduling::make_genai_scheduler(file);
        for (ov::genai::IScheduler *scheduler : {theirs.get(), static_cast<ov::genai::IScheduler *>(ours.get())}) {
            if (i == 0)
                scheduler->set_timesteps(N_STEPS, 1.0f);
            else
                scheduler->set_timesteps(size_t{1024}, N_STEPS, 1.0f);
        }
        const double difference = largest_difference(ours->get_float_timesteps(), theirs->get_float_timesteps());
        passed = passed && difference <= 1000 * TOLERANCE;
        std::printf("%-32s %22.1e%s\n", titles[i], difference, difference <= 1000 * TOLERANCE ? "" : "  DIFFERS");
    }
    std::filesystem::remove(file);
    return passed;
}

void compare_times(const std::filesystem::path &model) {
    std::printf("\n%-32s %12s %14s %14s %8s\n", "step time", "elements", "engine's us", "ours us", "ratio");
    for (const Rival &rival : RIVALS) {
        if (rival.has_betas) continue;
        const auto theirs = engine_scheduler(model / "scheduler" / "scheduler_config.json", rival.type);
        const auto ours = diffusion_scheduling::make_genai_scheduler(model, rival.class_name);
        for (size_t width : {64, 128, 256}) {
            const double engine = step_microseconds(*theirs, width), own = step_microseconds(*ours, width);
            std::printf("%-32s %12zu %14.1f %14.1f %8.1f\n", rival.class_name, 4 * width * width, engine, own, engine / own);
        }
    }
}

/* The tokenizer's library is in a wheel beside the engine's; the engine finds it through an environment variable. */
void find_tokenizers() {
    Dl_info place;
    if (!dladdr(reinterpret_cast<void *>(&ov::genai::Scheduler::from_config), &place)) return;
    const auto packages = std::filesystem::path(place.dli_fname).parent_path().parent_path();
    const auto library = packages / "openvino_tokenizers" / "lib" / "libopenvino_tokenizers.so";
    if (std::filesystem::exists(library)) setenv("OPENVINO_TOKENIZERS_PATH_GENAI", library.c_str(), 0);
}

int run(const std::vector<std::string> &arguments) {
    if (arguments.size() < 2) {
        std::cerr << "usage: pictures MODEL FOLDER [SCHEDULER ...]\n";
        return 2;
    }
    diffusion_scheduling::require_supported_genai();
    const std::filesystem::path model = arguments[0], folder = arguments[1];
    std::vector<std::string> names(arguments.begin() + 2, arguments.end());
    const bool compares = names.empty();
    if (compares)
        names = {"DEISMultistepScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler",
                 "DDIMScheduler",          "EulerDiscreteScheduler",      "DPM++ 2M Karras",         "DPM++ 2M SDE Karras"};
    for (const std::string &name : names) diffusion_scheduling::make_genai_scheduler(model, name); /* misspelt names fail early */
    std::filesystem::create_directories(folder);
    /* Processors with bfloat16 would run the networks in it by default, and its rounding hides differences between schedulers. */
    find_tokenizers();
    ov::genai::Text2ImagePipeline pipeline(model, "CPU", ov::AnyMap{{"INFERENCE_PRECISION_HINT", ov::element::f32}});
    std::printf("openvino.genai %s, %zu steps, %d x %d\n\n", ov::genai::get_version().buildNumber, N_STEPS, static_cast<int>(SIZE),
                static_cast<int>(SIZE));
    make_pictures(pipeline, model, folder, names);
    if (!compares) return 0;
    bool passed = compare_pictures(pipeline, model, folder);
    passed = compare_image_to_image(model, folder) && passed;
    passed = compare_flow(folder) && passed;
    compare_times(model);
    if (!passed) std::printf("\nlarger differences than %.0e of the largest number, or than 1 level\n", TOLERANCE);
    return passed ? 0 : 1;
}

} // namespace

int main(int count, char **arguments) {
    try {
        return run(std::vector<std::string>(arguments + 1, arguments + count));
    } catch (const std::exception &error) {
        std::fprintf(stderr, "pictures: %s\n", error.what());
        return 1;
    }
}
