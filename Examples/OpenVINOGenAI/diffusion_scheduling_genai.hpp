/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Schedulers of DiffusionScheduling for openvino.genai's image pipelines, in C++17.
 *
 *     ov::genai::Text2ImagePipeline pipeline("model", "CPU");
 *     pipeline.set_scheduler(diffusion_scheduling::make_genai_scheduler("model", "UniPCMultistepScheduler"));
 *     pipeline.generate("a picture of the sea", ov::AnyMap{{"num_inference_steps", size_t{20}}});
 *
 * openvino.genai accepts any object of its class IScheduler, but doesn't publish the class's header. This file declares the class
 * as the library exports it. make_genai_scheduler first checks the library: it refuses versions that the declaration wasn't
 * compared with, and libraries whose virtual functions have another order.
 *
 * A scheduler serves one pipeline at a time, like the engine's own. Errors are std::runtime_error with a sentence.
 */
#ifndef DIFFUSION_SCHEDULING_GENAI_HPP
#define DIFFUSION_SCHEDULING_GENAI_HPP

#include <diffusion_scheduling.h>

#include <openvino/core/version.hpp>
#include <openvino/runtime/tensor.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <filesystem>
#include <iterator>
#include <locale>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#if !defined(__linux__) || !defined(__x86_64__) || !defined(_GLIBCXX_USE_CXX11_ABI) || !_GLIBCXX_USE_CXX11_ABI
#error "diffusion_scheduling_genai.hpp was compared with openvino.genai for Linux on x86-64 with libstdc++'s C++11 ABI only"
#endif

/* openvino.genai's own headers, if they are installed. The wheel lacks them: these declarations name symbols that it exports. */
#if __has_include(<openvino/genai/image_generation/text2image_pipeline.hpp>)
#include <openvino/genai/image_generation/text2image_pipeline.hpp>
#include <openvino/genai/version.hpp>
#else

namespace ov {
namespace genai {

extern "C" const ov::Version get_version();

class DiffusionPipeline;

class Generator {
  public:
    virtual float next() = 0;
    virtual ov::Tensor randn_tensor(const ov::Shape &shape);
    virtual void seed(size_t new_seed) = 0;
    virtual ~Generator();
};

class Scheduler {
  public:
    enum Type { AUTO, LCM, DDIM, LMS_DISCRETE = DDIM, EULER_DISCRETE, FLOW_MATCH_EULER_DISCRETE, PNDM, EULER_ANCESTRAL_DISCRETE };
    static std::shared_ptr<Scheduler> from_config(const std::filesystem::path &scheduler_config_path, Type scheduler_type = AUTO);
    virtual ~Scheduler();
};

class Text2ImagePipeline {
  public:
    Text2ImagePipeline(const std::filesystem::path &models_path, const std::string &device, const ov::AnyMap &properties = {});
    void set_scheduler(std::shared_ptr<Scheduler> scheduler);
    ov::Tensor generate(const std::string &positive_prompt, const ov::AnyMap &properties = {});

  private:
    std::shared_ptr<DiffusionPipeline> m_impl;
};

} // namespace genai
} // namespace ov

#endif

namespace ov {
namespace genai {

/* The functions of a scheduler, in the order of the library's table. Functions without "= 0" are defined by the library; they
   throw. */
class IScheduler : public Scheduler {
  public:
    virtual void set_timesteps(size_t num_inference_steps, float strength) = 0;
    virtual float get_init_noise_sigma() const = 0;
    virtual void scale_model_input(ov::Tensor sample, size_t inference_step) = 0;
    virtual std::map<std::string, ov::Tensor> step(ov::Tensor noise_pred, ov::Tensor latents, size_t inference_step,
                                                   std::shared_ptr<Generator> generator) = 0;
    virtual void add_noise(ov::Tensor init_latent, ov::Tensor noise, int64_t latent_timestep) const = 0;
    virtual void set_timesteps(size_t image_seq_len, size_t num_inference_steps, float strength);
    virtual void set_timesteps_with_mu(double mu, size_t num_inference_steps, float strength);
    virtual double calculate_shift(size_t image_seq_len);
    virtual std::vector<int64_t> get_timesteps() const;
    virtual std::vector<float> get_float_timesteps();
    virtual void scale_noise(ov::Tensor sample, float timestep, ov::Tensor noise);
    virtual void set_begin_index(size_t begin_index);
};

} // namespace genai
} // namespace ov

namespace diffusion_scheduling {

/* The first three numbers of the openvino.genai version that the declaration was compared with. */
inline constexpr char supported_genai_version[] = "2026.4.1";

/* Throws unless the process's openvino.genai has the supported version, and IScheduler's functions in the declared order. */
inline void require_supported_genai() {
    const char *found = ov::genai::get_version().buildNumber;
    const size_t length = std::strlen(supported_genai_version);
    if (!found || std::strncmp(found, supported_genai_version, length) != 0 || (found[length] != '.' && found[length] != '-'))
        throw std::runtime_error("openvino.genai has the version " + std::string(found ? found : "(none)") +
                                 ", but schedulers from outside need " + supported_genai_version +
                                 ": the class IScheduler may differ in others");

    /* The table of an engine's own scheduler, slot by slot: two destructors, then the functions. */
    static const char *const functions[] = {
        "_ZN2ov5genai13DDIMScheduler13set_timestepsEmf",
        "_ZNK2ov5genai13DDIMScheduler20get_init_noise_sigmaEv",
        "_ZN2ov5genai13DDIMScheduler17scale_model_inputENS_6TensorEm",
        "_ZN2ov5genai13DDIMScheduler4stepB5cxx11ENS_6TensorES2_mSt10shared_ptrINS0_9GeneratorEE",
        "_ZNK2ov5genai13DDIMScheduler9add_noiseENS_6TensorES2_l",
        "_ZN2ov5genai10IScheduler13set_timestepsEmmf",
        "_ZN2ov5genai10IScheduler21set_timesteps_with_muEdmf",
        "_ZN2ov5genai10IScheduler15calculate_shiftEm",
        "_ZNK2ov5genai13DDIMScheduler13get_timestepsEv",
        "_ZN2ov5genai10IScheduler19get_float_timestepsEv",
        "_ZN2ov5genai10IScheduler11scale_noiseENS_6TensorEfS2_",
        "_ZN2ov5genai10IScheduler15set_begin_indexEm",
    };
    Dl_info place;
    void *library = nullptr;
    if (dladdr(reinterpret_cast<void *>(&ov::genai::Scheduler::from_config), &place))
        library = dlopen(place.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    void *const scope = library ? library : RTLD_DEFAULT;
    void *const *table = static_cast<void *const *>(dlsym(scope, "_ZTVN2ov5genai13DDIMSchedulerE"));
    const char *differing = table ? nullptr : "the table of DDIMScheduler";
    for (size_t i = 0; !differing && i < std::size(functions); i++)
        if (table[4 + i] != dlsym(scope, functions[i])) differing = functions[i];
    if (library) dlclose(library);
    if (differing)
        throw std::runtime_error("openvino.genai " + std::string(found) + " has another class IScheduler than version " +
                                 supported_genai_version + " in its wheel: " + differing + " isn't at its place");
}

/* A scheduler of the C library in the engine's interface. Runs begin with set_timesteps; steps are taken in order. */
class GenAIScheduler final : public ov::genai::IScheduler {
  public:
    /* Takes over the handle. run_options: the options of ds_scheduler_set_timesteps for every run, as a JSON object, or empty. */
    GenAIScheduler(ds_scheduler scheduler, const std::string &run_options) : scheduler_(scheduler), run_options_(run_options) {}
    GenAIScheduler(const GenAIScheduler &) = delete;
    GenAIScheduler &operator=(const GenAIScheduler &) = delete;

    ~GenAIScheduler() override {
        ds_session_free(session_);
        ds_scheduler_free(scheduler_);
    }

    /* The configuration in the format of diffusers' scheduler_config.json. */
    std::string configuration() const {
        const std::vector<char> text = list<char>(ds_scheduler_config_json);
        return std::string(text.begin(), text.end());
    }

    /* strength: the remaining share of the run, for image-to-image; 1 for a whole run. */
    void set_timesteps(size_t num_inference_steps, float strength) override { plan(num_inference_steps, strength, {}); }

    /* Runs of transformers: levels from 1 to 1/n, shifted by the number of image tokens if the configuration asks for it. */
    void set_timesteps(size_t image_seq_len, size_t num_inference_steps, float strength) override {
        set_timesteps_with_mu(shift_exponent(image_seq_len, num_inference_steps), num_inference_steps, strength);
    }

    void set_timesteps_with_mu(double mu, size_t num_inference_steps, float strength) override {
        const double n = static_cast<double>(num_inference_steps);
        std::string members = "\"sigmas\": [";
        for (size_t i = 0; i < num_inference_steps; i++)
            members += i ? ", " + number(1 - (1 - 1 / n) * static_cast<double>(i) / (n - 1)) : "1";
        members += "]";
        if (configuration().find("\"use_dynamic_shifting\": true") != std::string::npos) members += ", \"mu\": " + number(mu);
        plan(num_inference_steps, strength, members);
    }

    /* The line through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift), like diffusers' calculate_shift. */
    double calculate_shift(size_t image_seq_len) override {
        const std::string json = configuration();
        const double base_length = value(json, "base_image_seq_len", 256), max_length = value(json, "max_image_seq_len", 4096);
        const double base = value(json, "base_shift", 0.5), max = value(json, "max_shift", 1.15);
        return base + (max - base) / (max_length - base_length) * (static_cast<double>(image_seq_len) - base_length);
    }

    /* Whole numbers, since these pipelines hand integers to the model: fractional timesteps are rounded, the levels are not. */
    std::vector<int64_t> get_timesteps() const override {
        require_run();
        std::vector<int64_t> rounded;
        for (size_t i = begin_; i < timesteps_.size(); i++) rounded.push_back(std::llround(timesteps_[i]));
        return rounded;
    }

    std::vector<float> get_float_timesteps() override {
        require_run();
        return std::vector<float>(timesteps_.begin() + static_cast<std::ptrdiff_t>(begin_), timesteps_.end());
    }

    float get_init_noise_sigma() const override {
        double sigma;
        check(ds_scheduler_init_noise_sigma(scheduler_, &sigma));
        return static_cast<float>(sigma);
    }

    void scale_model_input(ov::Tensor sample, size_t inference_step) override {
        require_run();
        if (index(inference_step) >= input_scales_.size())
            throw std::runtime_error("DiffusionScheduling: step " + std::to_string(inference_step) +
                                     " was asked for, but the run has " + std::to_string(input_scales_.size() - begin_) + " steps");
        const double scale = input_scales_[index(inference_step)], zero = 0;
        if (scale == 1) return;
        const View x(sample);
        check(ds_combine_noise(&x.tensor, &x.tensor, &scale, &zero, 1, &x.tensor, 0));
    }

    std::map<std::string, ov::Tensor> step(ov::Tensor noise_pred, ov::Tensor latents, size_t inference_step,
                                           std::shared_ptr<ov::genai::Generator> generator) override {
        require_run();
        size_t next;
        check(ds_session_step_index(session_, &next));
        if (next != index(inference_step))
            throw std::runtime_error("DiffusionScheduling: step " + std::to_string(inference_step) + " was asked for, but step " +
                                     std::to_string(next - begin_) + " is next: the steps of a run are taken in their order");
        bool needs_noise;
        check(ds_session_needs_noise(session_, &needs_noise));
        ov::Tensor noise;
        if (needs_noise) {
            if (!generator)
                throw std::runtime_error(
                    "DiffusionScheduling: the step adds noise, but the generator is null: any generator is allowed");
            noise = generator->randn_tensor(latents.get_shape());
        }
        /* A new tensor: the engine's callback may still read the previous sample. */
        ov::Tensor result(latents.get_element_type(), latents.get_shape());
        const View e(noise_pred), x(latents), y(result);
        if (needs_noise) {
            const View z(noise);
            check(ds_session_step(session_, &e.tensor, &x.tensor, &z.tensor, &y.tensor, nullptr, 0));
        } else {
            check(ds_session_step(session_, &e.tensor, &x.tensor, nullptr, &y.tensor, nullptr, 0));
        }
        return {{"latent", result}};
    }

    void add_noise(ov::Tensor init_latent, ov::Tensor noise, int64_t latent_timestep) const override {
        require_run();
        for (size_t i = begin_; i < timesteps_.size(); i++)
            if (std::llround(timesteps_[i]) == latent_timestep) return mix(init_latent, noise, timesteps_[i]);
        throw std::runtime_error("DiffusionScheduling: the timestep " + std::to_string(latent_timestep) +
                                 " isn't one of the run's");
    }

    void scale_noise(ov::Tensor sample, float timestep, ov::Tensor noise) override {
        require_run();
        for (size_t i = begin_; i < timesteps_.size(); i++)
            if (static_cast<float>(timesteps_[i]) == timestep) return mix(sample, noise, timesteps_[i]);
        throw std::runtime_error("DiffusionScheduling: the timestep " + number(timestep) + " isn't one of the run's");
    }

    void set_begin_index(size_t begin_index) override {
        require_run();
        begin(begin_index);
    }

  private:
    /* A tensor of the engine in the C library's form. */
    struct View {
        std::vector<int64_t> shape;
        ds_tensor tensor;

        explicit View(const ov::Tensor &engine) : shape(engine.get_shape().begin(), engine.get_shape().end()) {
            const ov::element::Type type = engine.get_element_type();
            if (!engine.is_continuous())
                throw std::runtime_error("DiffusionScheduling: a tensor has gaps, but only contiguous tensors are allowed");
            if (type != ov::element::f32 && type != ov::element::f64 && type != ov::element::f16 && type != ov::element::bf16)
                throw std::runtime_error("DiffusionScheduling: a tensor has the element type " + type.get_type_name() +
                                         ", but only f32, f64, f16 and bf16 are allowed");
            tensor.data = const_cast<void *>(static_cast<const void *>(engine.data()));
            tensor.element_type = type == ov::element::f32   ? DS_FLOAT32
                                  : type == ov::element::f64 ? DS_FLOAT64
                                  : type == ov::element::f16 ? DS_FLOAT16
                                                             : DS_BFLOAT16;
            tensor.rank = shape.size();
            tensor.shape = shape.data();
        }
        View(const View &) = delete;
        View &operator=(const View &) = delete;
    };

    static void check(ds_status status) {
        if (status != DS_OK) throw std::runtime_error(std::string("DiffusionScheduling: ") + ds_error_message());
    }

    /* Enough digits to restore every bit, in any locale. */
    static std::string number(double x) {
        char text[40];
        std::snprintf(text, sizeof text, "%.17g", x);
        std::replace(text, text + std::strlen(text), ',', '.');
        return text;
    }

    template <typename Element, typename Function> std::vector<Element> list(Function function) const {
        size_t count;
        check(function(scheduler_, nullptr, 0, &count));
        std::vector<Element> result(count + 1); /* text ends with a zero that isn't counted */
        check(function(scheduler_, result.data(), result.size(), &count));
        result.resize(count);
        return result;
    }

    /* The value of a numeric key in the configuration's text, which has one member per line. */
    static double value(const std::string &json, const std::string &key, double missing) {
        const size_t place = json.find("\"" + key + "\": ");
        if (place == std::string::npos) return missing;
        std::istringstream text(json.substr(place + key.size() + 4));
        text.imbue(std::locale::classic());
        double found;
        return text >> found ? found : missing;
    }

    /* The exponent of the engine's pipelines: Flux's line or, if the file says "exponential", Flux 2's, fitted to the numbers of
     * tokens and of steps (diffusers' compute_empirical_mu). */
    double shift_exponent(size_t image_seq_len, size_t num_inference_steps) {
        const std::vector<char> defaulted = list<char>(ds_scheduler_defaulted_keys);
        const bool is_default = std::string(defaulted.begin(), defaulted.end()).find("\"time_shift_type\"") != std::string::npos;
        if (is_default || configuration().find("\"time_shift_type\": \"exponential\"") == std::string::npos)
            return calculate_shift(image_seq_len);
        const double tokens = static_cast<double>(image_seq_len), steps = static_cast<double>(num_inference_steps);
        const double at_200 = 0.00016927 * tokens + 0.45666666, at_10 = 8.73809524e-05 * tokens + 1.89833333;
        return tokens > 4300 ? at_200 : at_200 + (at_200 - at_10) / 190 * (steps - 200);
    }

    void plan(size_t n, float strength, const std::string &members) {
        std::string options = run_options_;
        if (!members.empty()) {
            const size_t brace = options.find('{'), first = options.find_first_not_of(" \t\r\n", brace + 1);
            if (brace == std::string::npos)
                options = "{" + members + "}";
            else
                options.insert(brace + 1, members + (first != std::string::npos && options[first] == '}' ? "" : ", "));
        }
        if (!(strength >= 0 && strength <= 1))
            throw std::runtime_error("DiffusionScheduling: strength is " + std::to_string(strength) + ", but must be from 0 to 1");
        check(ds_scheduler_set_timesteps(scheduler_, n, options.empty() ? nullptr : options.c_str()));
        timesteps_ = list<double>(ds_scheduler_timesteps);
        input_scales_ = list<double>(ds_scheduler_input_scales);
        /* Solvers with two evaluations per step have 2 n - 1. diffusers begins with the first evaluation of a step. */
        const size_t order = n > 1 && timesteps_.size() == 2 * n - 1 ? 2 : 1;
        const size_t first = begin_of_step(n, strength) * order;
        if (first >= timesteps_.size())
            throw std::runtime_error("DiffusionScheduling: strength " + std::to_string(strength) + " of " + std::to_string(n) +
                                     " steps leaves none: it must be at least " + std::to_string(1.0 / static_cast<double>(n)));
        begin(first);
    }

    /* The number of skipped steps; fractions are rounded like in diffusers' pipelines, which round differently for flow models. */
    size_t begin_of_step(size_t n, float strength) const {
        ds_plan_properties properties;
        check(ds_scheduler_plan_properties(scheduler_, &properties));
        const float left = std::min(static_cast<float>(n) * strength, static_cast<float>(n));
        return properties.process == DS_FLOW ? static_cast<size_t>(static_cast<float>(n) - left) : n - static_cast<size_t>(left);
    }

    void begin(size_t first) {
        ds_session session;
        check(ds_session_create(scheduler_, first, &session));
        ds_session_free(session_);
        session_ = session;
        begin_ = first;
    }

    void mix(ov::Tensor &sample, ov::Tensor &noise, double timestep) const {
        const View x(sample), z(noise);
        check(ds_scheduler_add_noise(scheduler_, &x.tensor, &z.tensor, &timestep, 1, &x.tensor, 0));
    }

    size_t index(size_t inference_step) const { return begin_ + inference_step; }

    void require_run() const {
        if (!session_.handle) throw std::runtime_error("DiffusionScheduling: timesteps aren't set: set_timesteps comes first");
    }

    ds_scheduler scheduler_;
    std::string run_options_;
    ds_session session_ = {0};
    size_t begin_ = 0;
    std::vector<double> timesteps_, input_scales_;
};

/* The scheduler file of a model, in the model's folder or its subfolder. */
inline ds_scheduler load_scheduler(const std::filesystem::path &model, const char *class_name, const char *overrides) {
    ds_scheduler scheduler;
    const bool has_subfolder = std::filesystem::is_directory(model / "scheduler");
    if (ds_scheduler_load(model.c_str(), has_subfolder ? "scheduler" : nullptr, class_name, overrides, &scheduler) != DS_OK)
        throw std::runtime_error(std::string("DiffusionScheduling: ") + ds_error_message());
    return scheduler;
}

/*
 * make_genai_scheduler makes a scheduler of a model for the engine's pipelines.
 *
 * model        the model's folder, its folder "scheduler", or a scheduler_config.json
 * name         empty: the class that the file names; else a class, such as "DEISMultistepScheduler", or a sampler, such as
 *              "DPM++ 2M Karras", with the file's values
 * overrides    a JSON object whose members replace the file's, or empty
 * run_options  a JSON object for every run, such as {"eta": 0.5}, or empty
 */
inline std::shared_ptr<GenAIScheduler> make_genai_scheduler(const std::filesystem::path &model, const std::string &name = {},
                                                            const std::string &overrides = {},
                                                            const std::string &run_options = {}) {
    require_supported_genai();
    const char *changes = overrides.empty() ? nullptr : overrides.c_str();
    bool is_class = name.empty();
    for (size_t i = 0; !is_class && ds_supported_class_name(i); i++) is_class = name == ds_supported_class_name(i);
    ds_scheduler scheduler =
        load_scheduler(model, is_class && !name.empty() ? name.c_str() : nullptr, is_class ? changes : nullptr);
    if (!is_class) {
        ds_scheduler sampler;
        const ds_status status = ds_scheduler_create_named(name.c_str(), scheduler, changes, &sampler);
        ds_scheduler_free(scheduler);
        if (status != DS_OK) throw std::runtime_error(std::string("DiffusionScheduling: ") + ds_error_message());
        scheduler = sampler;
    }
    return std::make_shared<GenAIScheduler>(scheduler, run_options);
}

} // namespace diffusion_scheduling

#endif
