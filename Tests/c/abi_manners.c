/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The library as a guest in a process: its output, the handlers and files it installs or keeps, and its work wherever programs put
 * it: on small stacks, in a child of fork, in a host's own parallel region, twice in one process, and after dlclose.
 *
 *     abi_manners LIBRARY COPY [LOCALE]
 *
 * LIBRARY and COPY are two files of the library; LOCALE has a decimal comma. Compiled with -fopenmp, the program is a host with its
 * own OpenMP runtime.
 */

#define _GNU_SOURCE

#include <diffusion_scheduling.h>

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* clang-format off */
#define FUNCTIONS(X)                                                                                                               \
    X(ds_scheduler_create) X(ds_scheduler_load) X(ds_scheduler_set_timesteps) X(ds_scheduler_free) X(ds_scheduler_config_json)      \
    X(ds_scheduler_plan_json) X(ds_session_create) X(ds_session_step) X(ds_session_free) X(ds_session_timestep)                     \
    X(ds_noise_create) X(ds_noise_fill) X(ds_noise_free) X(ds_error_message) X(ds_runtime_description)                              \
    X(ds_scheduler_plan_properties)
/* clang-format on */

typedef struct library {
    void *handle;
#define DECLARE(name) __typeof__(&name) name;
    FUNCTIONS(DECLARE)
} library;

static int n_checks, n_failures;
/* Stream for reports: the standard streams are being watched. */
static FILE *report;

static void check(int line, bool holds, const char *what) {
    n_checks++;
    if (holds) return;
    n_failures++;
    fprintf(report, "line %d: not so: %s\n", line, what);
}
#define CHECK(holds) check(__LINE__, (holds), #holds)

static void load(library *lib, const char *path) {
    lib->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib->handle) {
        fprintf(report, "%s\n", dlerror());
        exit(EXIT_FAILURE);
    }
    void *address;
#define FIND(name)                                \
    address = dlsym(lib->handle, #name);          \
    memcpy(&lib->name, &address, sizeof address); \
    CHECK(address != NULL);
    FUNCTIONS(FIND)
}

/* ---- Work: a whole run, reported by the hash of its last sample */

enum { LARGE = 150000, SMALL = 48, N_STEPS = 4 };

static const char configuration[] =
    "{\"_class_name\": \"DEISMultistepScheduler\", \"solver_order\": 3, \"beta_start\": 0.00085, \"beta_end\": 0.012}";

static uint64_t run(const library *lib, size_t count, unsigned max_threads) {
    const int64_t shape[] = {2, (int64_t)count / 2};
    ds_scheduler scheduler;
    ds_session session;
    ds_noise noise;
    float *x = malloc(count * sizeof *x), *e = malloc(count * sizeof *e);
    const ds_tensor tx = {x, DS_FLOAT32, 2, shape}, te = {e, DS_FLOAT32, 2, shape};
    bool is_right = lib->ds_scheduler_create(configuration, strlen(configuration), NULL, NULL, &scheduler) == DS_OK &&
                    lib->ds_scheduler_set_timesteps(scheduler, N_STEPS, NULL) == DS_OK &&
                    lib->ds_session_create(scheduler, 0, &session) == DS_OK &&
                    lib->ds_noise_create(DS_NOISE_TORCH_CPU, 3, &noise) == DS_OK &&
                    lib->ds_noise_fill(noise, &tx, max_threads) == DS_OK;
    double timestep;
    while (is_right && lib->ds_session_timestep(session, &timestep) == DS_OK) {
        for (size_t i = 0; i < count; i++) e[i] = 0.5f * x[i] + 0.125f;
        is_right = lib->ds_session_step(session, &te, &tx, NULL, &tx, NULL, max_threads) == DS_OK;
    }
    is_right = is_right && lib->ds_session_free(session) == DS_OK && lib->ds_scheduler_free(scheduler) == DS_OK &&
               lib->ds_noise_free(noise) == DS_OK;
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < count * sizeof *x; i++) sum = (sum ^ ((unsigned char *)x)[i]) * UINT64_C(0x100000001b3);
    free(x);
    free(e);
    return is_right ? sum : 0;
}

/* Fails in every way that might print or crash. */
static void fail_in_all_ways(const library *lib) {
    static const char *const texts[] = {"",
                                        "{",
                                        "{\"_class_name\": \"Nope\"}",
                                        "{\"_class_name\": \"DDIMScheduler\", \"beta_end\": 7}",
                                        "[[[[",
                                        "{\"_class_name\": 1}",
                                        "\xff\xfe"};
    ds_scheduler scheduler;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        CHECK(lib->ds_scheduler_create(texts[i], strlen(texts[i]), NULL, NULL, &scheduler) != DS_OK);
        CHECK(strlen(lib->ds_error_message()) > 5);
    }
    CHECK(lib->ds_scheduler_load("/nowhere", NULL, NULL, NULL, &scheduler) == DS_INACCESSIBLE_FILE);
    CHECK(lib->ds_session_step((ds_session){17}, NULL, NULL, NULL, NULL, NULL, 0) == DS_INVALID_HANDLE);
}

/* ---- The state of a process */

static int open_files(void) {
    DIR *directory = opendir("/proc/self/fd");
    int count = 0;
    if (!directory) return -1;
    while (readdir(directory)) count++;
    closedir(directory);
    return count;
}

typedef struct surroundings {
    struct sigaction actions[65];
    sigset_t mask;
    int n_files;
    mode_t file_mask;
    char directory[4096], locale[256];
} surroundings;

static void look_around(surroundings *s) {
    memset(s, 0, sizeof *s);
    for (int number = 1; number <= 64; number++) sigaction(number, NULL, &s->actions[number]);
    pthread_sigmask(SIG_SETMASK, NULL, &s->mask);
    s->n_files = open_files();
    s->file_mask = umask(022);
    umask(s->file_mask);
    if (!getcwd(s->directory, sizeof s->directory)) s->directory[0] = 0;
    snprintf(s->locale, sizeof s->locale, "%s", setlocale(LC_ALL, NULL));
}

static void compare(const surroundings *before, const surroundings *after) {
    for (int number = 1; number <= 64; number++) {
        const bool same = before->actions[number].sa_handler == after->actions[number].sa_handler &&
                          before->actions[number].sa_flags == after->actions[number].sa_flags;
        if (!same) fprintf(report, "signal %d has another handler\n", number);
        CHECK(same);
    }
    for (int number = 1; number <= 64; number++) CHECK(sigismember(&before->mask, number) == sigismember(&after->mask, number));
    CHECK(before->n_files == after->n_files);
    CHECK(before->file_mask == after->file_mask);
    CHECK(strcmp(before->directory, after->directory) == 0);
    CHECK(strcmp(before->locale, after->locale) == 0);
}

/* ---- Threads */

typedef struct task {
    const library *lib;
    uint64_t sum;
} task;

static void *run_small(void *argument) {
    task *t = argument;
    t->sum = run(t->lib, SMALL, 0);
    fail_in_all_ways(t->lib);
    return NULL;
}

/* Work on musl's default stack of 128 KiB, the smallest in common use. */
static uint64_t on_a_small_stack(const library *lib) {
    pthread_attr_t attributes;
    pthread_t thread;
    task t = {lib, 0};
    pthread_attr_init(&attributes);
    CHECK(pthread_attr_setstacksize(&attributes, 128 << 10) == 0);
    CHECK(pthread_create(&thread, &attributes, run_small, &t) == 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
    return t.sum;
}

/* ---- Fork: the child repeats the work, and so does its own child; an alarm ends a child that hangs */

static bool child_gets(const library *lib, uint64_t large, uint64_t small, int depth) {
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        bool is_right = run(lib, SMALL, 0) == small && run(lib, LARGE, 0) == large && run(lib, LARGE, 3) == large;
        is_right = is_right && (depth == 0 || child_gets(lib, large, small, depth - 1));
        _exit(is_right ? 0 : 1);
    }
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child) return false;
    if (WIFSIGNALED(status)) fprintf(report, "the child was ended by signal %d\n", WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* ---- Texts */

static char *texts_of(const library *lib) {
    static const char json[] = "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"beta_end\": 0.0125, \"flow_shift\": 1.5, "
                               "\"lambda_min_clipped\": -5.1, \"sample_max_value\": 1234567.25}";
    ds_scheduler scheduler;
    char *text = calloc(1, 1 << 16);
    if (lib->ds_scheduler_create(json, strlen(json), NULL, "{\"beta_start\": 0.00085}", &scheduler) != DS_OK) return text;
    lib->ds_scheduler_set_timesteps(scheduler, 3, NULL);
    lib->ds_scheduler_config_json(scheduler, text, 1 << 14, NULL);
    lib->ds_scheduler_plan_json(scheduler, text + strlen(text), 1 << 14, NULL);
    lib->ds_scheduler_free(scheduler);
    static const char bad[] = "{\"_class_name\": \"DDIMScheduler\", \"beta_end\": 7.5}";
    lib->ds_scheduler_create(bad, strlen(bad), NULL, NULL, &scheduler);
    strcat(text, lib->ds_error_message());
    return text;
}

int main(int argc, char **argv) {
    if (argc < 3) return EXIT_FAILURE;
    fflush(NULL);
    report = fdopen(dup(STDOUT_FILENO), "w");
    /* All output from here on goes to a file. */
    char name[] = "/tmp/abi_manners.XXXXXX";
    const int heard = mkstemp(name);
    unlink(name);
    if (!report || heard < 0 || dup2(heard, STDOUT_FILENO) < 0 || dup2(heard, STDERR_FILENO) < 0) return EXIT_FAILURE;

    surroundings before, after;
    library lib, copy;
    look_around(&before);
    load(&lib, argv[1]);
    const uint64_t small = run(&lib, SMALL, 1), large = run(&lib, LARGE, 1);
    CHECK(small != 0 && large != 0);
    fail_in_all_ways(&lib);
    look_around(&after);
    compare(&before, &after);

    CHECK(run(&lib, LARGE, 0) == large);
    CHECK(run(&lib, LARGE, 3) == large);
    CHECK(on_a_small_stack(&lib) == small);
    /* The OpenMP runtime may have opened files of its own; signal handlers belong to the host alone. */
    look_around(&after);
    after.n_files = before.n_files;
    compare(&before, &after);

#if defined(_OPENMP)
    bool all_right = true;
#pragma omp parallel num_threads(4) reduction(&& : all_right)
    all_right = run(&lib, SMALL, 0) == small && run(&lib, LARGE, 0) == large && run(&lib, LARGE, 2) == large;
    CHECK(all_right);
#endif

    /* Numbers in a locale with a decimal comma. */
    if (argc > 3) {
        char *plain = texts_of(&lib);
        CHECK(strstr(plain, "0.0125") && strstr(plain, "7.5"));
        CHECK(setlocale(LC_ALL, argv[3]) != NULL);
        CHECK(strcmp(localeconv()->decimal_point, ",") == 0);
        char *elsewhere = texts_of(&lib);
        CHECK(strcmp(plain, elsewhere) == 0);
        CHECK(run(&lib, SMALL, 0) == small);
        free(plain);
        free(elsewhere);
        setlocale(LC_ALL, "C");
    }

    /* A second copy, independent of the first. */
    load(&copy, argv[2]);
    CHECK(copy.ds_scheduler_create != lib.ds_scheduler_create);
    CHECK(run(&copy, SMALL, 0) == small);
    CHECK(run(&copy, LARGE, 0) == large);
    ds_scheduler first, second;
    ds_plan_properties properties;
    CHECK(lib.ds_scheduler_create(configuration, strlen(configuration), NULL, NULL, &first) == DS_OK);
    CHECK(copy.ds_scheduler_free(first) == DS_INVALID_HANDLE ||
          copy.ds_scheduler_plan_properties(first, &properties) == DS_INVALID_HANDLE);
    CHECK(copy.ds_scheduler_create(configuration, strlen(configuration), NULL, NULL, &second) == DS_OK);
    CHECK(lib.ds_scheduler_set_timesteps(first, 3, NULL) == DS_OK);
    CHECK(copy.ds_scheduler_plan_properties(second, &properties) == DS_TIMESTEPS_NOT_SET);
    CHECK(lib.ds_scheduler_free(first) == DS_OK && copy.ds_scheduler_free(second) == DS_OK);

    CHECK(child_gets(&lib, large, small, 1));
    CHECK(run(&lib, LARGE, 0) == large);

    /* The library stays loaded after dlclose: Swift's runtime can't be unloaded. */
    const library closed = lib;
    CHECK(dlclose(lib.handle) == 0 && dlclose(copy.handle) == 0);
    CHECK(run(&closed, SMALL, 0) == small);
    load(&lib, argv[1]);
    CHECK(lib.ds_session_step == closed.ds_session_step);
    CHECK(run(&lib, LARGE, 0) == large);

    fflush(NULL);
    struct stat information;
    CHECK(fstat(heard, &information) == 0 && information.st_size == 0);
    if (information.st_size > 0) {
        char buffer[1024];
        const ssize_t n = pread(heard, buffer, sizeof buffer - 1, 0);
        fprintf(report, "printed: %.*s\n", (int)(n > 0 ? n : 0), buffer);
    }
    fprintf(report, "runtime: %s\n%d checks, %d failures\n", lib.ds_runtime_description(), n_checks, n_failures);
    fclose(report);
    return n_failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
