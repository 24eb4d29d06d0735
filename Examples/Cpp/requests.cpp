// SPDX-License-Identifier: Apache-2.0

// Serves requests on several threads with one scheduler; one request is interrupted in the middle, saved, and continued elsewhere.
//
// Data are normal with mean 2 and deviation 1/2, so the exact model is a line, and so is every step of the solver.

#include <diffusion_scheduling.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace {

void check(ds_status status) {
    if (status != DS_OK) throw std::runtime_error(ds_error_message());
}

// Handles that free themselves.

class Scheduler {
  public:
    explicit Scheduler(std::string_view json, const char *class_name = nullptr) {
        check(ds_scheduler_create(json.data(), json.size(), class_name, nullptr, &handle_));
    }
    Scheduler(const Scheduler &) = delete;
    Scheduler &operator=(const Scheduler &) = delete;
    ~Scheduler() { ds_scheduler_free(handle_); }

    ds_scheduler get() const { return handle_; }

    std::vector<double> alphas_cumprod() const {
        std::size_t count = 0;
        check(ds_scheduler_alphas_cumprod(handle_, nullptr, 0, &count));
        std::vector<double> values(count);
        check(ds_scheduler_alphas_cumprod(handle_, values.data(), values.size(), nullptr));
        return values;
    }

  private:
    ds_scheduler handle_{};
};

class Session {
  public:
    explicit Session(const Scheduler &scheduler) { check(ds_session_create(scheduler.get(), 0, &handle_)); }
    Session(const Scheduler &scheduler, const std::vector<unsigned char> &saved) {
        check(ds_session_restore(scheduler.get(), saved.data(), saved.size(), &handle_));
    }
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;
    ~Session() { ds_session_free(handle_); }

    bool timestep(double &timestep) const { return ds_session_timestep(handle_, &timestep) == DS_OK; }

    void step(const std::vector<double> &output, std::vector<double> &sample) {
        const auto count = static_cast<std::int64_t>(sample.size());
        const ds_tensor e{const_cast<double *>(output.data()), DS_FLOAT64, 1, &count};
        const ds_tensor x{sample.data(), DS_FLOAT64, 1, &count};
        check(ds_session_step(handle_, &e, &x, nullptr, &x, nullptr, 1));
    }

    std::vector<unsigned char> save() const {
        std::size_t count = 0;
        check(ds_session_save(handle_, nullptr, 0, &count));
        std::vector<unsigned char> bytes(count);
        check(ds_session_save(handle_, bytes.data(), bytes.size(), nullptr));
        return bytes;
    }

  private:
    ds_session handle_{};
};

constexpr double mean = 2, deviation = 0.5;

void model(const std::vector<double> &sample, double alpha, std::vector<double> &noise) {
    const double signal = std::sqrt(alpha), rate = std::sqrt(1 - alpha);
    const double variance = alpha * deviation * deviation + 1 - alpha;
    for (std::size_t i = 0; i < sample.size(); i++) noise[i] = rate * (sample[i] - signal * mean) / variance;
}

std::vector<double> start(std::uint64_t seed) {
    std::vector<double> sample(4096);
    const auto count = static_cast<std::int64_t>(sample.size());
    const ds_tensor x{sample.data(), DS_FLOAT64, 1, &count};
    ds_noise noise;
    check(ds_noise_create(DS_NOISE_NUMPY, seed, &noise));
    check(ds_noise_fill(noise, &x, 1));
    check(ds_noise_free(noise));
    return sample;
}

// A run whose result mustn't change if its machine stops in the middle.
std::vector<double> serve(const Scheduler &scheduler, std::uint64_t seed, bool interrupted) {
    const std::vector<double> alphas = scheduler.alphas_cumprod();
    std::vector<double> sample = start(seed), output(sample.size());
    std::vector<unsigned char> saved;
    double timestep;
    {
        Session session(scheduler);
        for (int taken = 0; session.timestep(timestep) && !(interrupted && taken == 7); taken++) {
            model(sample, alphas[static_cast<std::size_t>(timestep)], output);
            session.step(output, sample);
        }
        saved = session.save();
    }
    Session session(scheduler, saved);
    while (session.timestep(timestep)) {
        model(sample, alphas[static_cast<std::size_t>(timestep)], output);
        session.step(output, sample);
    }
    return sample;
}

} // namespace

int main() {
    try {
        const Scheduler scheduler(
            R"({"_class_name": "DEISMultistepScheduler", "solver_order": 3, "timestep_spacing": "trailing"})");
        check(ds_scheduler_set_timesteps(scheduler.get(), 25, nullptr));

        std::vector<std::vector<double>> results(4);
        std::vector<std::thread> threads;
        for (std::size_t i = 0; i < results.size(); i++)
            threads.emplace_back([&, i] { results[i] = serve(scheduler, i, i % 2 == 1); });
        for (auto &thread : threads) thread.join();

        bool right = true;
        for (std::size_t i = 0; i < results.size(); i++) {
            double sum = 0, squares = 0;
            for (double value : results[i]) sum += value;
            const double average = sum / static_cast<double>(results[i].size());
            for (double value : results[i]) squares += (value - average) * (value - average);
            const double spread = std::sqrt(squares / static_cast<double>(results[i].size()));
            std::printf("request %zu: mean %.3f, deviation %.3f\n", i, average, spread);
            right = right && std::fabs(average - mean) < 0.05 && std::fabs(spread - deviation) < 0.05;
        }
        right = right && results[1] == serve(scheduler, 1, false);
        std::puts(right ? "interrupted requests gave the bits of uninterrupted ones" : "something is wrong");
        return right ? EXIT_SUCCESS : EXIT_FAILURE;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return EXIT_FAILURE;
    }
}
