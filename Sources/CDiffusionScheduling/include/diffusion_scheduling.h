/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Diffusion schedulers for C. They read diffusers' configuration files and reproduce its noise levels, solvers and random numbers.
 * A step is one pass over memory; thresholding and rescaled guidance take more.
 *
 *     ds_scheduler scheduler;
 *     ds_scheduler_load("model/scheduler", NULL, NULL, NULL, &scheduler);     reads scheduler_config.json
 *     ds_scheduler_set_timesteps(scheduler, 20, NULL);                        compiles the plan
 *     ds_session session;
 *     ds_session_create(scheduler, 0, &session);                              one request
 *     double timestep;
 *     while (ds_session_timestep(session, &timestep) == DS_OK) {
 *         model(x.data, timestep, e.data);                                    yours
 *         ds_session_step(session, &e, &x, NULL, &x, NULL, 0);                x becomes the next sample
 *     }
 *     ds_session_free(session);
 *     ds_scheduler_free(scheduler);
 *
 * Handles     A scheduler is a configuration and, once timesteps have been set, a plan: an immutable table of scalars. A session
 *             is one request's progress through a plan: the index of the next step and the slots that earlier steps stored. A noise
 *             source is a seeded generator. Handles are small values and are copied like numbers; the object behind a handle
 *             lives until it is freed. Functions that need an object return DS_INVALID_HANDLE for a zero handle, a freed handle or
 *             a handle of another kind. (Generations are counted in 32 bits: a handle freed 2^32 reuses ago could pass for a new
 *             one.)
 * Tensors     A tensor is an address, an element type and a shape; it is contiguous, the last axis fastest. Axis 0 counts the
 *             batch items; a tensor of rank 0 or 1 is one item. Batch items matter for thresholding, for rescaled guidance and
 *             for timesteps per item. Unless stated otherwise, all tensors of a call have the same element type and shape. Model
 *             outputs may have their own element type, because engines run models in float16 or bfloat16 and keep samples in
 *             float32. A tensor may be empty; its address may then be NULL.
 * In place    An output may be the same memory as an input with elements of the same size: the same address. It may not
 *             partly overlap an input, and it may not overlap another output.
 * Errors      Functions return a ds_status. A call that fails changes nothing: no output, tensor, slot or index (except the
 *             size that DS_BUFFER_TOO_SMALL reports). ds_error_message() then returns a sentence that names the argument, its
 *             value and the allowed values. Everything that the arguments reveal is checked; the size of the memory behind an
 *             address can't be.
 * Threads     All functions may be called from any thread. Any number of threads may use a scheduler at once, even while one of
 *             them sets timesteps: every call sees either the plan before or the plan after. A session or a noise source may be
 *             used by one thread at a time; different ones may be used at once. Freeing an object while another thread uses it
 *             is an error and isn't detected.
 *             The work on large tensors is shared among the threads of the process's OpenMP runtime (see
 *             ds_runtime_description). `max_threads` limits the threads of a call: 0 means as many as the runtime would use, 1
 *             stays on the caller's thread. Results don't depend on it.
 * Steps       ds_session_step takes no lock and allocates nothing but the slots: at the first step, and at the first one after a
 *             copy. Sums are computed in float64 (in float32 if all tensors have half types) and rounded once to the element
 *             type. The results have the same bits on every processor, for any number of threads, in place or not. CKernels.h
 *             has the details.
 * Text        Text is UTF-8. For functions that fill a caller's buffer, `capacity` is the buffer's size. `*length` or `*count`
 *             becomes the size of the whole result. `*length` counts bytes without the terminating zero; the zero is written
 *             too and needs room. `*count` counts numbers. With capacity 0 the buffer may be NULL and the call only reports the
 *             size. A buffer that is too small returns DS_BUFFER_TOO_SMALL, reports the size and leaves the buffer untouched.
 *             `length` or `count` may be NULL if the capacity is not 0.
 *
 * The library needs only the system's C and C++ libraries, and no Swift runtime.
 */
#ifndef DIFFUSION_SCHEDULING_H
#define DIFFUSION_SCHEDULING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version */

/* The version of this header, as semantic versioning numbers it; DS_VERSION is the whole as one number. */
#define DS_VERSION_MAJOR 0
#define DS_VERSION_MINOR 1
#define DS_VERSION_PATCH 0
#define DS_VERSION (DS_VERSION_MAJOR * 10000 + DS_VERSION_MINOR * 100 + DS_VERSION_PATCH)

/* The version of the running library, encoded like DS_VERSION. Within a major version, functions, numbers and struct fields keep
 * their meaning; new functions and numbers may be added. */
uint32_t ds_version(void);

/*
 * The OpenMP runtime that provides the threads, as a sentence. Never NULL; valid for the life of the process. The runtime is chosen
 * once, at the first call that needs it: the one already in the process, else the system's libomp or libgomp. Without any of them,
 * every call stays on the caller's thread. A second runtime in a process would compete with the first for the cores.
 */
const char *ds_runtime_description(void);

/* ---- Errors */

/* The outcome of a call. The numbers are never reused; later versions append. */
typedef enum ds_status {
    DS_OK = 0,

    /* Swift's SchedulerError, case by case: invalidValue, conflictingKeys, ... */
    DS_INVALID_VALUE = 1,         /* a configuration key or an argument has a value that isn't allowed */
    DS_CONFLICTING_KEYS = 2,      /* configuration keys exclude one another */
    DS_UNSUPPORTED_SCHEDULER = 3, /* no scheduler has that class name */
    DS_INACCESSIBLE_FILE = 4,     /* the file can't be read */
    DS_MALFORMED_JSON = 5,        /* the text isn't the JSON that diffusers writes; the message has line and column */
    DS_TIMESTEPS_NOT_SET = 6,     /* the call needs a plan, but no timesteps have been set */
    DS_UNKNOWN_TIMESTEP = 7,      /* the call doesn't accept this timestep */
    DS_STEP_PAST_END = 8,         /* all steps of the plan have been taken */
    DS_WRONG_ELEMENT_COUNT = 9,   /* a tensor or an array has the wrong number of elements for the session or for the sample */
    DS_WRONG_ELEMENT_TYPE = 10,   /* the tensors of a call or of a session differ in element type */
    DS_MISSING_NOISE = 11,        /* the step is stochastic, but noise is NULL */
    DS_UNREPRESENTABLE_PLAN = 12, /* a coefficient of the plan isn't finite: the noise levels are too extreme for float64 */
    DS_DAMAGED_STATE = 13,        /* the bytes are not a saved state, or have been corrupted */
    DS_FOREIGN_STATE = 14,        /* the state was saved with another plan */

    /* Errors of C calls only; CallError in the Swift sources. */
    DS_NULL_POINTER = 15,          /* a required argument is NULL */
    DS_INVALID_HANDLE = 16,        /* the handle is zero, has been freed, or has another kind */
    DS_UNKNOWN_ELEMENT_TYPE = 17,  /* the element type is not one of ds_element_type */
    DS_INVALID_SHAPE = 18,         /* a negative extent, or a rank above DS_MAX_RANK */
    DS_TOO_LARGE = 19,             /* the elements of a tensor don't fit the address space */
    DS_MISALIGNED = 20,            /* a tensor's address is not a multiple of its element size */
    DS_OVERLAP = 21,               /* an output overlaps an input in part, or overlaps another output */
    DS_SHAPE_MISMATCH = 22,        /* the shapes of a call's tensors don't match */
    DS_BUFFER_TOO_SMALL = 23,      /* the result doesn't fit the buffer; its size has been reported */
    DS_UNSUPPORTED_OPERATION = 24, /* the scheduler has no such operation */

    DS_OUT_OF_MEMORY = 25,    /* no memory for a session's slots; SchedulerError.outOfMemory */
    DS_TOO_MANY_HANDLES = 26, /* 4,194,304 objects of the kind exist already; CallError.tooManyHandles */
    DS_KERNEL_FAILURE = 27,   /* the kernels refused a call, which is a fault of this library; SchedulerError.kernelFailure */
} ds_status;

/* The meaning of a status, as a sentence. Never NULL; valid for the life of the process. */
const char *ds_status_message(ds_status status);

/*
 * The message of the last failed call on this thread: a sentence without a full stop, "" before the first failure. Never NULL.
 * Successful calls don't change it. Valid until the next failed call on this thread. At most 1,023 bytes; longer messages are cut off.
 */
const char *ds_error_message(void);

/* ---- Tensors */

/* The type of a tensor's elements. The numbers are never reused; later versions append. */
typedef enum ds_element_type {
    DS_FLOAT32 = 0,
    DS_FLOAT64 = 1,
    DS_FLOAT16 = 2,  /* IEEE 754's binary16: 5 bits of exponent, 10 of fraction */
    DS_BFLOAT16 = 3, /* the upper half of a float32: 8 bits of exponent, 7 of fraction */
} ds_element_type;

/* Bytes of one element; 0 for an unknown type. */
size_t ds_element_size(ds_element_type type);

/* A limit of tensors. */
enum {
    DS_MAX_RANK = 64, /* the most axes */
};

/*
 * A contiguous tensor in the caller's memory. Functions read the struct during the call and keep no reference to it. Input tensors
 * are never written to, although `data` isn't const.
 *
 * data          the address of the first element; NULL is allowed if there are none
 * element_type  the type of every element
 * rank          the number of axes, at most DS_MAX_RANK
 * shape         [rank], each at least 0; may be NULL if rank is 0, which means one element
 */
typedef struct ds_tensor {
    void *data;
    ds_element_type element_type;
    size_t rank;
    const int64_t *shape;
} ds_tensor;

/* ---- Schedulers: making */

/* A configuration and, once timesteps have been set, a plan. */
typedef struct ds_scheduler {
    uint64_t handle; /* 0: none */
} ds_scheduler;

/* The supported class names, sorted, by index from 0; NULL after the last. Valid for the life of the process. */
const char *ds_supported_class_name(size_t index);

/*
 * ds_class_description describes a class as a JSON object:
 *
 *     class_name               the name
 *     compatible_class_names   the classes whose configurations this one can be made from
 *     parameters               objects in the order of diffusers' constructor, with the members key, type (Python's name), default and
 *                              summary. A parameter with words allows only these. One with an override_name is unknown to diffusers.
 *     options                  the run options of ds_scheduler_set_timesteps, in the same form. An option with a timestep_offset
 *                              defaults, in diffusers' step, to the step's timestep plus this number.
 *     attributes               the attributes in which diffusers' object keeps tensors between steps (see
 *                              ds_scheduler_attribute_row): the names of its `tensors`, of the list `history`, and of the count
 *                              `age`, the argument `age` of a row; null: none. If `timestep` isn't null, diffusers' step takes the
 *                              tensors as arguments, and the timestep of the step before as the argument that `timestep` names: see
 *                              ds_scheduler_row_at.
 *     report                   diffusers' name of a step's second result
 *     returns_report           whether diffusers' step returns it as well
 *     result_type              the next sample's element type in diffusers if sample and model output differ in theirs:
 *                                  promoted              the type that holds both
 *                                  at_least_float32      the type that holds both and float32
 *                                  model_output, sample  that tensor's type
 *                                  converted             the type of the prediction that the solver extrapolates
 *     noise_type               the element type of the noise that diffusers draws: model_output, sample, promoted (the type that holds
 *                              both), at_least_float32 (the type that holds the model output's and float32) or float32
 *     update_names             diffusers' names for the updates of orders 1, 2 ... in its step; empty for most classes
 *     timestep_type            the element type of diffusers' timesteps: int64, float32 or float64; null: int64 for
 *                              variance-preserving plans, else float32
 *     sigma_type               the element type of diffusers' noise levels: float32 or float64
 *     lists_end                whether diffusers' list of timesteps ends with one more, the timestep that the last step leads to.
 *                              Lists for ds_scheduler_set_timesteps then do, too; ds_scheduler_timesteps leaves it out.
 *     counts_end               whether n_steps counts noise levels, including the one after the last step: a run then has one step
 *                              less, or fewer still if levels coincide
 *     brownian_motion          the Brownian motion over the noise levels whose increments, divided by their deviation, are the noise of
 *                              diffusers' steps; null: there is none. Its `seed` is the parameter with its seed (null: a generator's
 *                              seed), its `range` the parameters with its ends (empty: the levels of the run). Where it `overlaps`,
 *                              the two evaluations of a step read increments from the level of the first one, and the rows of
 *                              ds_scheduler_attribute_row read them so. The plan's rows read independent noise.
 *     is_stateless             whether steps depend on nothing but their arguments: ds_scheduler_row_at works
 *     batch_step               diffusers' method that steps each batch item at a separate timestep: its `name`, and the boolean
 *                              `option` of ds_scheduler_row_at that selects its rows; null: none
 *     step_arguments           arguments of diffusers' `step` for values that other classes hold or draw themselves: `noise`,
 *                              `step_index` (the index in the run), and lists of the arguments for its `timesteps` and `sigmas`;
 *                              null: none
 *     calls                    the methods by which diffusers' pipelines step, if they don't call `step` at a timestep of the run.
 *                              Each has a `name`, and is the row of ds_scheduler_attribute_row at its `evaluation` (also the age) of
 *                              a plan on noise levels ("levels" of ds_scheduler_set_timesteps), which are
 *                                  level_arguments  the arguments of these names, and 0 after them; if empty,
 *                                  level_table      with the argument timestep = t and n = the number of timesteps, the element
 *                                                   floor((n - 1) t) of the attribute of this name, ascending levels, and the
 *                                                   element below it, or 0; if null,
 *                                  norms            ||z|| / ||e|| twice: the means over the batch of the Euclidean norms of noise and
 *                                                   model output. The coefficients of z are proportional to the level there, and
 *                                                   those of e to its square.
 *                              `sample` is the argument for the sample, `noise_type` is as above for the noise that the method
 *                              draws (null: none), and `results` and `tuple_results` are the names of the results, in an object and
 *                              in a tuple: prev_sample, the report's, and those of the `tensors` of the attributes
 *     has_velocity             whether ds_scheduler_get_velocity works
 *     adds_noise_at_training_levels   whether ds_scheduler_add_noise takes training timesteps even after timesteps have been set
 *
 * Later versions may add members. A default may be a bare Infinity.
 *
 * Errors: DS_NULL_POINTER, DS_UNSUPPORTED_SCHEDULER, DS_BUFFER_TOO_SMALL.
 */
ds_status ds_class_description(const char *class_name, char *buffer, size_t capacity, size_t *length);

/*
 * ds_scheduler_create makes a scheduler from the text of a scheduler_config.json.
 *
 * json        [length] strict JSON, plus the bare Infinity, -Infinity and NaN that Python writes. No terminating zero is needed.
 *             Limits: 32 MiB, 2^20 values, 64 levels of nesting, 1,000,000 training timesteps.
 * class_name  NULL: the text's "_class_name" decides. Otherwise, the class to make; the text then only provides values, as in
 *             diffusers' Class.from_config(dict). Keys without a parameter in that class are kept for writing the configuration
 *             back; keys listed in "_use_default_values" count as absent.
 * overrides   NULL, or the zero-terminated text of a JSON object whose members replace those of `json`
 *
 * Errors: DS_NULL_POINTER, DS_TOO_LARGE, DS_MALFORMED_JSON, DS_UNSUPPORTED_SCHEDULER, DS_INVALID_VALUE, DS_CONFLICTING_KEYS,
 * DS_TOO_MANY_HANDLES.
 */
ds_status ds_scheduler_create(const char *json, size_t length, const char *class_name, const char *overrides,
                              ds_scheduler *scheduler);

/*
 * ds_scheduler_load makes a scheduler from a file, like diffusers' from_pretrained without the download.
 *
 * path                   a scheduler_config.json, or a folder that contains one
 * subfolder              NULL, or a folder inside `path` that contains the file ("scheduler" in model repositories)
 * class_name, overrides  as for ds_scheduler_create
 *
 * Errors: DS_INACCESSIBLE_FILE, and the errors of ds_scheduler_create.
 */
ds_status ds_scheduler_load(const char *path, const char *subfolder, const char *class_name, const char *overrides,
                            ds_scheduler *scheduler);

/*
 * ds_scheduler_create_named makes a scheduler from a sampler's name in AUTOMATIC1111, in ComfyUI or in DEIS' paper.
 *
 * name       a name of ds_sampler_name or of a class, optionally followed by a name of noise levels; case, spaces and punctuation
 *            don't matter: "DPM++ 2M SDE Karras", "euler_ancestral sgm_uniform", "deis:tab3". Without a name of levels, the model's
 *            configuration decides. Levels have the names of "sigma_schedule" (ds_scheduler_set_timesteps), AUTOMATIC1111's labels,
 *            and automatic, AUTOMATIC1111's default for the sampler.
 * model      a scheduler with the model's configuration, which tells how it was trained; a zero handle: diffusers' defaults
 * overrides  as for ds_scheduler_create; they take precedence over the values of the name
 *
 * Errors: DS_UNSUPPORTED_SCHEDULER if no scheduler implements the sampler, or if its scheduler doesn't support the model's
 * training; the message names the nearest sampler. DS_INVALID_VALUE, also if the scheduler has no choice of levels.
 * DS_INVALID_HANDLE, DS_NULL_POINTER, DS_MALFORMED_JSON, DS_CONFLICTING_KEYS, DS_TOO_MANY_HANDLES.
 */
ds_status ds_scheduler_create_named(const char *name, ds_scheduler model, const char *overrides, ds_scheduler *scheduler);

/* The names of samplers by index from 0; NULL after the last. Valid for the life of the process. */
const char *ds_sampler_name(size_t index);

/* Frees a scheduler. Its sessions stay usable. A zero handle is allowed and does nothing. Errors: DS_INVALID_HANDLE. */
ds_status ds_scheduler_free(ds_scheduler scheduler);

/* ---- Schedulers: properties. Errors of each function: DS_INVALID_HANDLE, DS_NULL_POINTER; with buffers also
 * DS_BUFFER_TOO_SMALL. */

/* The class name, such as "DEISMultistepScheduler". */
ds_status ds_scheduler_class_name(ds_scheduler scheduler, char *buffer, size_t capacity, size_t *length);

/* The configuration as diffusers writes scheduler_config.json: all parameters, the kept keys and "_class_name", with sorted keys
 * and a final line feed. */
ds_status ds_scheduler_config_json(ds_scheduler scheduler, char *buffer, size_t capacity, size_t *length);

/* The names from which ds_scheduler_create_named makes a scheduler like this one, as a JSON array of strings; empty if none
 * does. */
ds_status ds_scheduler_sampler_names(ds_scheduler scheduler, char *buffer, size_t capacity, size_t *length);

/* The configuration's keys that have no effect on this scheduler, sorted, as a JSON array of strings. */
ds_status ds_scheduler_unused_keys(ds_scheduler scheduler, char *buffer, size_t capacity, size_t *length);

/* The configuration's keys that haven't been set, as a JSON array of strings: diffusers' "_use_default_values". */
ds_status ds_scheduler_defaulted_keys(ds_scheduler scheduler, char *buffer, size_t capacity, size_t *length);

/* T, the number of timesteps that the model was trained with; len(scheduler) in diffusers. */
ds_status ds_scheduler_num_train_timesteps(ds_scheduler scheduler, size_t *count);

/* The signal variances of the training, [T], from timestep 0 on; alphas_cumprod in diffusers. Float32 values. With the variances
 * beta of the noise that training timesteps add, alphas_cumprod[t] = (1 - beta[0]) (1 - beta[1]) ... (1 - beta[t]). */
ds_status ds_scheduler_alphas_cumprod(ds_scheduler scheduler, double *buffer, size_t capacity, size_t *count);

/* The standard deviation of the noise that a run starts with: sample = sigma * noise. 1 before timesteps are set. */
ds_status ds_scheduler_init_noise_sigma(ds_scheduler scheduler, double *sigma);

/* ---- Schedulers: the plan */

/*
 * ds_scheduler_set_timesteps plans a run. Existing sessions keep the plan that they were created with.
 *
 * n_steps    from 1 to 100,000; some schedulers allow at most the number of training timesteps. With timesteps or sigmas in
 *            `arguments`: 0, or their number.
 * arguments  NULL, or a JSON object. Its members are diffusers' arguments of set_timesteps:
 *
 *                "timesteps": [...]   the model's timesteps
 *                "sigmas": [...]      the noise levels; the scheduler's convention says whether the last one is among them
 *                "mu": number         the exponent of dynamic shifting
 *                "sigma_schedule": name
 *                                     n_steps noise levels, computed by name: karras, exponential, vp, laplace, kl_optimal,
 *                                     linear_quadratic, bong_tangent, simple, normal, quadratic, sgm_uniform, ddim_uniform, beta,
 *                                     beta57, align_your_steps_sd15, align_your_steps_sdxl, align_your_steps_svd; they are used as
 *                                     "sigmas", in the scheduler's convention
 *
 *            and the scheduler's run options by their names, such as "eta": see ds_class_description. An option that is null counts
 *            as absent. Any other member is an error. Once timesteps have been set, there may also be
 *
 *                "levels": [...]      noise levels as ds_scheduler_sigmas lists them, one more than "timesteps". Both replace the
 *                                     plan's unchanged: nothing is shifted, spaced or rounded
 *
 * Complexity: O(n_steps), tens of microseconds for 20 steps; plus O(T) for schedulers that interpolate in training time.
 * Errors: DS_INVALID_HANDLE, DS_MALFORMED_JSON, DS_INVALID_VALUE, DS_UNREPRESENTABLE_PLAN.
 */
ds_status ds_scheduler_set_timesteps(ds_scheduler scheduler, size_t n_steps, const char *arguments);

/* The clamp of the predicted clean sample p. The numbers are never reused; later versions append. */
typedef enum ds_clamp {
    DS_CLAMP_NONE = 0,
    DS_CLAMP_RANGE = 1,     /* p <- min(max(p, -range), range) */
    DS_CLAMP_THRESHOLD = 2, /* p <- min(max(p, -s), s) / s with s = min(max(quantile(|p|, ratio), 1), maximum) of each batch item
                             * (Saharia et al. 2022, arXiv:2205.11487, section 2.3) */
} ds_clamp;

/* The mixture of data and noise in a sample at the noise level sigma. The numbers are never reused; later versions append. */
typedef enum ds_process {
    DS_VARIANCE_PRESERVING = 0, /* sample = (data + sigma noise) / sqrt(1 + sigma^2) */
    DS_VARIANCE_EXPLODING = 1,  /* sample = data + sigma noise */
    DS_FLOW = 2,                /* sample = (1 - sigma) data + sigma noise */
} ds_process;

/* The properties that all steps of a plan share. */
typedef struct ds_plan_properties {
    size_t n_steps;           /* evaluations of the model, one for each timestep */
    size_t n_slots;           /* slots that the rows store and read, at most DS_MAX_SLOTS */
    size_t warm_up;           /* ages of at least this have the same row, see ds_scheduler_row */
    double init_noise_sigma;  /* the standard deviation of the noise that a run starts with */
    ds_clamp clamp;           /* of every prediction */
    double clamp_range;       /* for DS_CLAMP_RANGE, else 0 */
    double threshold_ratio;   /* for DS_CLAMP_THRESHOLD, else 0 */
    double threshold_maximum; /* for DS_CLAMP_THRESHOLD, else 0 */
    bool learns_variance;     /* the model output may also hold a variance, see ds_session_step */
    bool is_stochastic;       /* diffusers draws noise for at least one step, see n_noise_draws of ds_row */
    ds_process process;       /* of the noise levels */
} ds_plan_properties;

/* Errors of this function and of the following, down to ds_scheduler_device_table: DS_INVALID_HANDLE, DS_NULL_POINTER,
 * DS_TIMESTEPS_NOT_SET (except for ds_scheduler_timesteps and ds_scheduler_sigmas); with buffers also DS_BUFFER_TOO_SMALL. */
ds_status ds_scheduler_plan_properties(ds_scheduler scheduler, ds_plan_properties *properties);

/* The timesteps that the model gets, [n_steps]: one for each of ds_scheduler_sigmas but the last. Before timesteps are set: the
 * training timesteps, [T], noisiest first, as in diffusers. */
ds_status ds_scheduler_timesteps(ds_scheduler scheduler, double *buffer, size_t capacity, size_t *count);

/* The noise levels, [n_steps + 1]: step i goes from sigmas[i] to sigmas[i + 1]. Before timesteps are set: the training levels, [T],
 * noisiest first. Float32 values. sigma = noise_rate / signal_rate, except for flow matching: see ds_process. */
ds_status ds_scheduler_sigmas(ds_scheduler scheduler, double *buffer, size_t capacity, size_t *count);

/* The rates at each of the plan's noise levels, [n_steps + 1]: sample = signal_rate * data + noise_rate * noise. */
ds_status ds_scheduler_signal_rates(ds_scheduler scheduler, double *buffer, size_t capacity, size_t *count);
ds_status ds_scheduler_noise_rates(ds_scheduler scheduler, double *buffer, size_t capacity, size_t *count);

/* The input scale of each step, [n_steps]: input = input_scale * sample. */
ds_status ds_scheduler_input_scales(ds_scheduler scheduler, double *buffer, size_t capacity, size_t *count);

/* For models that give several outputs e[k] at each evaluation, their weights w, [n_steps, n_outputs]. The caller computes the model
 * output of step i, model_output = sum over k of w[i][k] e[k]. No numbers for models that give one output. */
ds_status ds_scheduler_output_weights(ds_scheduler scheduler, double *buffer, size_t capacity, size_t *count);

/* Sizes of arrays. */
enum {
    DS_MAX_SLOTS = 6,            /* the most slots of a plan */
    DS_MAX_STORES = 2,           /* the most stores of a row */
    DS_PREPARED_ROW_WORDS = 160, /* the words of a ds_prepared_row */
};

/* The coefficients of a sum of tensors. A tensor with coefficient 0 isn't read. */
typedef struct ds_combination {
    double sample;              /* of the sample x */
    double model_output;        /* of the model output e */
    double noise;               /* of the noise z */
    double prediction;          /* of the clamped prediction p */
    double slots[DS_MAX_SLOTS]; /* of each slot's contents */
} ds_combination;

/* The factor f of each element of the noise, where the model output holds a variance v. The numbers are never reused; later
 * versions append. */
typedef enum ds_noise_factor {
    DS_NOISE_FACTOR_NONE = 0,        /* 1 */
    DS_NOISE_FACTOR_ROOT = 1,        /* the root of max(v, 0) */
    DS_NOISE_FACTOR_EXPONENTIAL = 2, /* exp(noise_offset + noise_slope v) */
} ds_noise_factor;

/* The contents of a slot after a step. */
typedef struct ds_store {
    size_t slot;          /* from 0 on */
    ds_combination value; /* its contents after the step */
} ds_store;

/*
 * The scalars of one step, for engines that keep their tensors elsewhere:
 *
 *     p                 = clamp( prediction of x, e, z )
 *     next sample       = next_sample of x, e, z, p, slots
 *     stores[i].slot   <- stores[i].value of x, e, z, p, slots     for i < n_stores, all from the slots as they were before
 *     report            = report of x, e, z, p, slots              what ds_session_step writes to pred_original_sample
 *
 * f z takes the place of z if there is a noise_factor.
 */
typedef struct ds_row {
    size_t n_reads;                 /* the number of slots that the row reads */
    size_t reads[DS_MAX_SLOTS];     /* these, in the order of summation; others follow by their numbers */
    ds_combination prediction;      /* p before the clamp; reads neither slots nor p */
    ds_combination next_sample;     /* the sample after the step */
    size_t n_stores;                /* the number of slots that the row stores */
    ds_store stores[DS_MAX_STORES]; /* these, in ascending order of their slots */
    ds_combination report;          /* p, except for schedulers that report something else */
    size_t n_noise_draws; /* tensors of noise that diffusers draws for the step, whether it reads them or not; the last is read */
    ds_noise_factor noise_factor; /* of each element of z */
    double noise_offset;          /* for DS_NOISE_FACTOR_EXPONENTIAL, else 0 */
    double noise_slope;           /* for DS_NOISE_FACTOR_EXPONENTIAL, else 0 */
} ds_row;

/*
 * ds_scheduler_row gives the scalars of step `index` in a run that has taken `age` steps before it: `index` steps in a run from the
 * start, 0 at the first step of a run that begins later. Ages of warm_up and more have the same row.
 * Errors: also DS_INVALID_VALUE if index isn't a step of the plan.
 */
ds_status ds_scheduler_row(ds_scheduler scheduler, size_t index, size_t age, ds_row *row);

/*
 * ds_scheduler_attribute_row gives the scalars of a step for callers that keep the attributes of diffusers' object instead of a
 * session's slots. The member `attributes` of ds_class_description names the attributes. The row has one slot for each of
 * `tensors`, in that order, followed by the tensors of the list `history`, newest first. A store to the first slot of the history
 * becomes its newest element, and the others move back by one: pass ds_row_step separate memory for it in `stores`.
 * Errors: as ds_scheduler_row.
 */
ds_status ds_scheduler_attribute_row(ds_scheduler scheduler, size_t index, size_t age, ds_row *row);

/*
 * The whole plan as JSON, with all rows of coefficients. The Swift library's SamplingPlan and ds_session_create_on_plan read it.
 * Numbers have enough digits to restore every bit.
 */
ds_status ds_scheduler_plan_json(ds_scheduler scheduler, char *buffer, size_t capacity, size_t *length);

/*
 * ds_scheduler_device_table writes all rows of the plan as a table for kernels on devices: records of 1,024 bytes in the layout of
 * device_table.h. Each table starts with a record for free places in a batch; in a buffer of several tables, every run uses the
 * first table's.
 *
 * first_record  the number of records before this table in its buffer; 0 for the first table
 *
 * Errors: also DS_INVALID_VALUE for first_record.
 */
ds_status ds_scheduler_device_table(ds_scheduler scheduler, size_t first_record, void *bytes, size_t capacity, size_t *length);

/* ---- Sessions */

/* One request on its way through a plan. */
typedef struct ds_session {
    uint64_t handle; /* 0: none */
} ds_session;

/*
 * ds_session_create makes a session on the scheduler's present plan. Afterwards the scheduler may be freed or given another plan.
 *
 * begin_index  the first step to take, at most n_steps. For image-to-image, begin later than 0 and add noise to the image at
 *              timesteps[begin_index] first.
 *
 * Errors: DS_INVALID_HANDLE, DS_NULL_POINTER, DS_TIMESTEPS_NOT_SET, DS_INVALID_VALUE, DS_TOO_MANY_HANDLES.
 */
ds_status ds_session_create(ds_scheduler scheduler, size_t begin_index, ds_session *session);

/* Frees a session. A zero handle is allowed and does nothing. Errors: DS_INVALID_HANDLE. */
ds_status ds_session_free(ds_session session);

/* Makes a second session in the same state; the two are independent from then on. They share the slots until one of
 * them steps. Errors: DS_INVALID_HANDLE, DS_NULL_POINTER, DS_TOO_MANY_HANDLES. */
ds_status ds_session_copy(ds_session session, ds_session *copy);

/* Returns the session to its first step and clears slots, element type and number of elements, for another request.
 * Errors: DS_INVALID_HANDLE. */
ds_status ds_session_reset(ds_session session);

/* The index of the next step, from 0; n_steps after the last step. Errors: DS_INVALID_HANDLE, DS_NULL_POINTER. */
ds_status ds_session_step_index(ds_session session, size_t *index);

/* The timestep that the model gets at the next step. Errors: DS_INVALID_HANDLE, DS_NULL_POINTER; DS_STEP_PAST_END after the last
 * step. */
ds_status ds_session_timestep(ds_session session, double *timestep);

/* Whether the next step adds noise. Errors: as ds_session_timestep. */
ds_status ds_session_needs_noise(ds_session session, bool *needs_noise);

/*
 * ds_session_step takes the next step: from the sample at this step's timestep to the next sample. The row of the step, a ds_row, has
 * the formula.
 *
 * model_output          the model's output at this timestep, of any element type. If the plan has learns_variance, axis 1 (axis 0
 *                       for rank 1) may be twice as long as the sample's: the first half of each batch item is the prediction, the
 *                       second half its variance. Steps with a noise_factor (see ds_row) need it, others pass over it. Several
 *                       outputs are summed before, see ds_scheduler_output_weights.
 * sample                sets the shape of the call. The first step of a session fixes the element type and the number of elements
 *                       for all its steps. The slots have the sample's type.
 * noise                 standard normal numbers; may be NULL if the step needs none
 * prev_sample           receives the next sample (the previous one on the way from data to noise, hence diffusers' name)
 * pred_original_sample  NULL, or receives the predicted clean sample after the clamp
 *
 * An output may be the memory of sample, model_output (unless it holds variances) or noise. The two outputs may not share memory.
 * At a step that stores two slots, pred_original_sample may not share memory with any other tensor.
 *
 * Complexity: one pass over memory (more with thresholding); the call itself takes about 0.1 microseconds. It takes no lock and
 * allocates nothing but the slots: at the first step, and at the first one after a copy.
 * Errors: DS_INVALID_HANDLE, DS_STEP_PAST_END, DS_MISSING_NOISE, DS_OUT_OF_MEMORY (for the slots), and the errors of tensors:
 * DS_NULL_POINTER, DS_UNKNOWN_ELEMENT_TYPE, DS_INVALID_SHAPE, DS_TOO_LARGE, DS_MISALIGNED, DS_OVERLAP, DS_SHAPE_MISMATCH,
 * DS_WRONG_ELEMENT_TYPE, DS_WRONG_ELEMENT_COUNT.
 */
ds_status ds_session_step(ds_session session, const ds_tensor *model_output, const ds_tensor *sample, const ds_tensor *noise,
                          const ds_tensor *prev_sample, const ds_tensor *pred_original_sample, unsigned max_threads);

/*
 * ds_session_step_with_input is ds_session_step that also writes the model's input for the step after (diffusers'
 * scale_model_input): model_input = input_scale * prev_sample with that step's input scale; after the last step, the next sample.
 *
 * model_input  like prev_sample; it may not share memory with any other tensor
 *
 * The scaling costs no pass over memory, unless the step stores two slots or pred_original_sample is wanted too. The input is
 * scaled before it is rounded, so its last bit may differ from ds_scheduler_scale_model_input's.
 * Errors: as ds_session_step.
 */
ds_status ds_session_step_with_input(ds_session session, const ds_tensor *model_output, const ds_tensor *sample,
                                     const ds_tensor *noise, const ds_tensor *prev_sample, const ds_tensor *pred_original_sample,
                                     const ds_tensor *model_input, unsigned max_threads);

/*
 * Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598, equation 6), optionally rescaled (Lin et al. 2023,
 * arXiv:2305.08891, section 3.4). With the model's conditional output e_c and its unconditional output e_u, a guided step uses
 *
 *     e = e_u + scale (e_c - e_u),  and then  e <- rescale e std(e_c) / std(e) + (1 - rescale) e  for each batch item
 *
 * scale    finite; diffusers' guidance_scale. At 1, e is e_c, and e_u isn't read.
 * rescale  in [0, 1]; diffusers' guidance_rescale. An item with a constant e stays unchanged.
 */
typedef struct ds_guidance {
    double scale;
    double rescale;
} ds_guidance;

/*
 * ds_session_step_guided takes the next step with a guided model output, e of ds_guidance. It computes the guided output on the
 * way, at the cost of reading one more tensor; rescaling takes one more pass over both outputs. Intermediate values aren't rounded
 * to an element type.
 *
 * conditional, unconditional  e_c and e_u: each like model_output of ds_session_step, both of the same element type and shape
 * others                      as for ds_session_step; an output may also be the memory of unconditional
 *
 * Errors: as ds_session_step, and DS_INVALID_VALUE for the guidance.
 */
ds_status ds_session_step_guided(ds_session session, const ds_tensor *conditional, const ds_tensor *unconditional,
                                 const ds_guidance *guidance, const ds_tensor *sample, const ds_tensor *noise,
                                 const ds_tensor *prev_sample, const ds_tensor *pred_original_sample, unsigned max_threads);

/*
 * ds_sessions_step takes the next step of many sessions at once: index i of axis 0 of each tensor belongs to sessions[i]. It serves
 * engines that run one model for many requests: each session has its own plan, step, solver and order, and sessions may come and go
 * between calls. ds_row has the formula of a step, ds_guidance that of a guided output. Every row gets the same bits as in a
 * separate call. All rows share one parallel region.
 *
 * sessions       [n_rows], each session at most once; a zero handle marks a free row, which is neither read nor written
 * model_output   [n_rows, ...] as for ds_session_step; e_c in guided rows. With a predicted variance (axis 1 twice as long, rank 2
 *                or more), the plans of all sessions need learns_variance.
 * unconditional  NULL, or e_u, like model_output
 * guidance       NULL, or [n_rows]; a scale of 1 for rows without guidance
 * sample         [n_rows, ...]; a row is one batch item
 * noise          NULL if no row needs it, else shaped like sample and read in the rows that need it
 * others         as for ds_session_step
 *
 * Allocates about 600 bytes per row. Errors: as ds_session_step_guided, with the row at the start of the message; DS_INVALID_VALUE
 * if a session occurs twice. After an error no session and no tensor has changed.
 */
ds_status ds_sessions_step(const ds_session *sessions, size_t n_rows, const ds_tensor *model_output, const ds_tensor *unconditional,
                           const ds_guidance *guidance, const ds_tensor *sample, const ds_tensor *noise,
                           const ds_tensor *prev_sample, const ds_tensor *pred_original_sample, unsigned max_threads);

/*
 * ds_session_save writes the session's state: its steps, slots, element type and number of elements, a fingerprint of its plan, and
 * a checksum. The format is the same on every machine. The size is 72 bytes plus the elements of the slots that are still read.
 *
 * bytes  [capacity]; the introduction's Text explains how to ask for the size
 *
 * Errors: DS_INVALID_HANDLE, DS_NULL_POINTER, DS_BUFFER_TOO_SMALL.
 */
ds_status ds_session_save(ds_session session, void *bytes, size_t capacity, size_t *length);

/*
 * ds_session_restore makes a session in a saved state. It continues with the same bits as if it had never been saved, also in
 * another process or on another machine. The scheduler's plan must equal the saved session's in every bit of its coefficients.
 *
 * bytes  [length] as ds_session_save wrote them
 *
 * Errors: DS_INVALID_HANDLE, DS_NULL_POINTER, DS_TIMESTEPS_NOT_SET, DS_DAMAGED_STATE, DS_FOREIGN_STATE, DS_OUT_OF_MEMORY,
 * DS_TOO_MANY_HANDLES.
 */
ds_status ds_session_restore(ds_scheduler scheduler, const void *bytes, size_t length, ds_session *session);

/*
 * ds_session_create_on_plan makes a session without a scheduler, on a plan that ds_scheduler_plan_json wrote in any process. To
 * make more, copy it: copies share the plan.
 *
 * json         [length] no terminating zero is needed
 * begin_index  as for ds_session_create
 *
 * Errors: DS_NULL_POINTER, DS_MALFORMED_JSON, DS_INVALID_VALUE, DS_UNREPRESENTABLE_PLAN, DS_TOO_MANY_HANDLES.
 */
ds_status ds_session_create_on_plan(const char *json, size_t length, size_t begin_index, ds_session *session);

/* ds_session_restore_like is ds_session_restore with another session's plan instead of a scheduler's. Errors: as
 * ds_session_restore without DS_TIMESTEPS_NOT_SET. */
ds_status ds_session_restore_like(ds_session other, const void *bytes, size_t length, ds_session *session);

/* ---- Other operations. They don't change the scheduler. Errors: those of handles and tensors (see ds_session_step), and those
 * listed with each function. */

/*
 * ds_scheduler_add_noise computes out = signal_rate * sample + noise_rate * noise with the rates of each batch item's timestep.
 *
 * timesteps  [n_timesteps] one for all elements, or one for each index of axis 0. Once timesteps are set, they must belong to the
 *            plan (the first step with the timestep decides). Before that, and always for schedulers that step between whole
 *            training timesteps, such as DDIM, they are training timesteps.
 * out        may be the memory of sample or noise
 *
 * Errors: DS_UNKNOWN_TIMESTEP, DS_WRONG_ELEMENT_COUNT.
 */
ds_status ds_scheduler_add_noise(ds_scheduler scheduler, const ds_tensor *sample, const ds_tensor *noise, const double *timesteps,
                                 size_t n_timesteps, const ds_tensor *out, unsigned max_threads);

/*
 * ds_combine_noise computes out = signal_rate * sample + noise_rate * noise with the caller's rates, for example those of
 * ds_scheduler_signal_rates and ds_scheduler_noise_rates. `out` may be the memory of sample or noise.
 *
 * signal_rates, noise_rates  [n_rates] finite; one for all elements, or one for each index of axis 0
 *
 * Errors: DS_INVALID_VALUE, DS_WRONG_ELEMENT_COUNT.
 */
ds_status ds_combine_noise(const ds_tensor *sample, const ds_tensor *noise, const double *signal_rates, const double *noise_rates,
                           size_t n_rates, const ds_tensor *out, unsigned max_threads);

/*
 * ds_scheduler_get_velocity computes out = signal_rate * noise - noise_rate * sample, the training target of v_prediction models.
 * Arguments as for ds_scheduler_add_noise. Errors: also DS_UNSUPPORTED_OPERATION for schedulers without
 * has_velocity, see ds_class_description.
 */
ds_status ds_scheduler_get_velocity(ds_scheduler scheduler, const ds_tensor *sample, const ds_tensor *noise,
                                    const double *timesteps, size_t n_timesteps, const ds_tensor *out, unsigned max_threads);

/*
 * ds_scheduler_scale_model_input scales a sample to the model's input at a timestep of the plan: out = input_scale * sample. If all
 * input scales are 1, or before timesteps have been set, the timestep doesn't matter and `out` becomes a copy. `out` may be the
 * memory of sample. Errors: also DS_UNKNOWN_TIMESTEP.
 */
ds_status ds_scheduler_scale_model_input(ds_scheduler scheduler, const ds_tensor *sample, double timestep, const ds_tensor *out,
                                         unsigned max_threads);

/*
 * ds_scheduler_row_at gives the scalars of the step at a training timestep, in or out of the plan. It works for stateless
 * schedulers, such as DDIM: their steps depend only on the arguments and the number of steps that has been set. Any thread may take
 * any step in any order. The row reads and stores no slots.
 *
 * It also works for classes whose `attributes` in ds_class_description have a `timestep`: their callers may keep the tensors
 * between steps. The slots of the row are then the tensors of `attributes`, and the step's report becomes the last of them. The row
 * of a first step reads none.
 *
 * timestep   a training timestep: a whole number from 0 to T - 1
 * arguments  NULL, or a JSON object of run options, as for ds_scheduler_set_timesteps; for such classes also the timestep of the
 *            step before, under the name that `attributes` gives. Without it, the step is a first one.
 *
 * Complexity: O(1).
 * Errors: DS_INVALID_HANDLE, DS_NULL_POINTER, DS_TIMESTEPS_NOT_SET, DS_UNKNOWN_TIMESTEP, DS_MALFORMED_JSON, DS_INVALID_VALUE;
 * DS_UNSUPPORTED_OPERATION for other schedulers.
 */
ds_status ds_scheduler_row_at(ds_scheduler scheduler, double timestep, const char *arguments, ds_row *row);

/*
 * ds_scheduler_part_row gives a part of step `index` as a row, for the parts that diffusers documents: convert_model_output,
 * dpm_solver_first_order_update, multistep_dpm_solver_second_order_update, ... Only schedulers that extrapolate model outputs have
 * parts: DEIS and the DPM-Solvers. The next sample of the row is the part's result.
 *
 * order  0: converts model_output to the solver's prediction: the predicted noise for DEIS and DPM-Solver, the predicted clean
 *           sample for DPM-Solver++, after the clamp
 *        1, 2, 3: the update of that order, at most index + 1. model_output is the step's converted output, and slot k the
 *           converted output of k + 1 steps before; n_slots is order - 1.
 *
 * Errors: as ds_scheduler_row; DS_UNSUPPORTED_OPERATION for other schedulers; DS_INVALID_VALUE for the order.
 */
ds_status ds_scheduler_part_row(ds_scheduler scheduler, size_t index, unsigned order, ds_row *row);

/* A row ready for any number of steps. It may be copied, and any number of threads may step with it at once. */
typedef struct ds_prepared_row {
    uint64_t contents[DS_PREPARED_ROW_WORDS]; /* for the library alone */
} ds_prepared_row;

/*
 * ds_scheduler_prepare_row prepares a row for steps with the clamp of the scheduler's plan and writes it to `prepared`. Afterwards
 * the scheduler may be freed or given another plan.
 *
 * row  from ds_scheduler_row, ds_scheduler_attribute_row, ds_scheduler_row_at or ds_scheduler_part_row, or made by the caller. Its
 *      n_noise_draws isn't read.
 *
 * Errors: DS_INVALID_HANDLE, DS_NULL_POINTER, DS_TIMESTEPS_NOT_SET, DS_INVALID_VALUE (a coefficient that isn't finite, a number of a
 * slot or of slots out of range, a prediction of slots or of itself). On error nothing is written.
 */
ds_status ds_scheduler_prepare_row(ds_scheduler scheduler, const ds_row *row, ds_prepared_row *prepared);

/*
 * ds_scheduler_device_row writes a row as a record of ds_scheduler_device_table, for callers that manage slots outside their
 * kernels. The record ends a run and has no timestep.
 *
 * row     as for ds_scheduler_prepare_row
 * record  [1,024] bytes
 *
 * Errors: as ds_scheduler_prepare_row.
 */
ds_status ds_scheduler_device_row(ds_scheduler scheduler, const ds_row *row, void *record);

/*
 * ds_row_step executes a row, whose formula ds_row has, with the caller's tensors as slots: a step without a session. A run whose
 * slots stay in the same memory gives the same bits as a session.
 *
 * row      of ds_scheduler_prepare_row
 * slots    [n_slots] by the slots' numbers; NULL if n_slots is 0. A slot that the row reads or stores is a tensor like sample; the
 *          others aren't looked at. No output may overlap a slot. A stored slot may not overlap any tensor of the call.
 * n_slots  at most DS_MAX_SLOTS; n_slots of ds_plan_properties is enough for the rows of the plan
 * stores   NULL: the row stores to its slots. Else [n_stores of the row]: tensors like sample that it stores to instead, in the
 *          order of its stores; the slots stay unchanged. They may not overlap any tensor of the call.
 * others   as for ds_session_step
 *
 * Complexity: as ds_session_step. It takes no lock and allocates nothing (more with thresholding).
 * Errors: DS_MISSING_NOISE, DS_OUT_OF_MEMORY (with thresholding), DS_INVALID_VALUE (memory that isn't a prepared row, n_slots, a slot
 * that isn't given) and the errors of tensors.
 */
ds_status ds_row_step(const ds_prepared_row *row, const ds_tensor *model_output, const ds_tensor *sample, const ds_tensor *noise,
                      const ds_tensor *slots, size_t n_slots, const ds_tensor *stores, const ds_tensor *prev_sample,
                      const ds_tensor *pred_original_sample, unsigned max_threads);

/*
 * ds_rescale_noise_cfg rescales the guided output of each batch item so that guidance doesn't change the picture's contrast (Lin et
 * al. 2023, arXiv:2305.08891, section 3.4):
 *
 *     out = factor * guided,   factor = r std(conditional) / std(guided) + (1 - r)
 *
 * guidance_rescale  r in [0, 1]; the paper uses 0.7
 * out               may be the memory of guided or conditional
 *
 * An item with equal elements in guided is copied. Errors: DS_INVALID_VALUE.
 */
ds_status ds_rescale_noise_cfg(const ds_tensor *guided, const ds_tensor *conditional, double guidance_rescale, const ds_tensor *out,
                               unsigned max_threads);

/* ---- Noise: standard normal numbers that match torch's and NumPy's for the same seeds and calls */

/* A seeded generator of standard normal numbers. */
typedef struct ds_noise {
    uint64_t handle; /* 0: none */
} ds_noise;

/* The generators. The numbers are never reused; later versions append. */
typedef enum ds_noise_kind {
    DS_NOISE_TORCH_CPU = 0,  /* torch.randn on a CPU, bit for bit; float32 and float64 */
    DS_NOISE_TORCH_CUDA = 1, /* torch.randn on CUDA with an A100's launch sizes, within 2^-20 of the radius; float32 */
    DS_NOISE_NUMPY = 2,      /* numpy.random.RandomState.standard_normal, bit for bit; float64, and float32 rounded from it */
} ds_noise_kind;

/*
 * ds_noise_create makes a noise source.
 *
 * seed  torch's manual_seed: any number (torch's CPU generator uses the low 32 bits); NumPy's seed: below 2^32
 *
 * Errors: DS_NULL_POINTER, DS_INVALID_VALUE, DS_TOO_MANY_HANDLES.
 */
ds_status ds_noise_create(ds_noise_kind kind, uint64_t seed, ds_noise *noise);

/*
 * ds_noise_create_torch_cuda makes a DS_NOISE_TORCH_CUDA source for a given device. The device matters for tensors of more than
 * about 100,000 elements.
 *
 * offset                         the value of Generator.get_offset(), a multiple of 4; 0 after seeding
 * n_multiprocessors              torch.cuda.get_device_properties(0).multi_processor_count, from 1 to 65,535
 * n_threads_per_multiprocessor   torch.cuda.get_device_properties(0).max_threads_per_multi_processor, from 256 to 65,535
 *
 * Errors: as ds_noise_create.
 */
ds_status ds_noise_create_torch_cuda(uint64_t seed, uint64_t offset, unsigned n_multiprocessors,
                                     unsigned n_threads_per_multiprocessor, ds_noise *noise);

/* Frees a noise source. A zero handle is allowed and does nothing. Errors: DS_INVALID_HANDLE. */
ds_status ds_noise_free(ds_noise noise);

/* Makes a second source in the same state: it gives the same numbers. Errors: DS_INVALID_HANDLE, DS_NULL_POINTER,
 * DS_TOO_MANY_HANDLES. */
ds_status ds_noise_copy(ds_noise noise, ds_noise *copy);

/*
 * ds_noise_fill overwrites a tensor with the next numbers. One call corresponds to one torch.randn or standard_normal of the same
 * number of elements, whatever the shape. Two calls of 8 elements differ from one call of 16. CKernels.h has the formulas:
 * dsk_torch_normal_float32, dsk_torch_cuda_normal_float32 and dsk_numpy_normal_float64.
 *
 * out  float32, or float64 for the kinds that support it; at most 2^29 elements for DS_NOISE_TORCH_CUDA
 *
 * Errors: those of tensors; DS_WRONG_ELEMENT_TYPE for unsupported types; DS_WRONG_ELEMENT_COUNT for too many elements.
 */
ds_status ds_noise_fill(ds_noise noise, const ds_tensor *out, unsigned max_threads);

/* Save and restore the state of a source, as ds_session_save and ds_session_restore do for sessions. The state has fewer than 3,000
 * bytes. Errors: DS_INVALID_HANDLE, DS_NULL_POINTER, DS_BUFFER_TOO_SMALL; DS_DAMAGED_STATE, DS_INVALID_VALUE,
 * DS_TOO_MANY_HANDLES. */
ds_status ds_noise_save(ds_noise noise, void *bytes, size_t capacity, size_t *length);
ds_status ds_noise_restore(const void *bytes, size_t length, ds_noise *noise);

#ifdef __cplusplus
}
#endif

#endif
