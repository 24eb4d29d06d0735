/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Diffusion schedulers for C: the configuration files, noise levels, solvers and random numbers of diffusers, and steps that
 * pass over memory once.
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
 * Handles     A scheduler is a configuration and, once timesteps have been set, a plan: a table of scalars that never changes.
 *             A session is one request's way through a plan: the step that comes next, and slots of what earlier steps stored. A
 *             noise source is a seeded generator. Handles are small values, copied like numbers; what they name lives until it
 *             is freed. No zero handle, freed handle, or handle of another kind is accepted: such calls return
 *             DS_INVALID_HANDLE. (A slot's generation is counted in 32 bits, so a handle that was freed 2^32 reuses ago could
 *             pass for a new one.)
 * Tensors     Address, element type and shape; contiguous, the last axis fastest. Axis 0 counts the batch items; a tensor of
 *             rank 0 or 1 is one item. Batch items matter for thresholding, for rescaled guidance and where each has a timestep
 *             of its own. Tensors of one call have the same element type and the same shape, where nothing else is said: model
 *             outputs may have a type of their own, as engines run models in float16 or bfloat16 and keep samples in float32.
 *             A tensor may be empty; its address may be NULL then.
 * In place    An output may be the very memory of an input with elements of the same size: the same address. It may not overlap
 *             an input in part, nor another output.
 * Errors      Functions return a ds_status. A call that doesn't return DS_OK has changed nothing: no output, no tensor, no
 *             slot, no index (the sizes that DS_BUFFER_TOO_SMALL reports apart), and ds_error_message() has a sentence that
 *             names the argument, its value and what is allowed. Everything that can be told from the arguments is checked;
 *             whether an address has as much memory behind it as its shape says can't be told.
 * Threads     All functions may be called from any thread. A scheduler may be used by any number of threads at once, also while
 *             one of them sets timesteps: calls see the plan before or the plan after. A session or a noise source may be used
 *             by one thread at a time, different ones at once. Freeing what another thread is using at that moment is an error
 *             that isn't detected.
 *             The work of large tensors is shared among the threads of the OpenMP runtime that the process has (see
 *             ds_runtime_description). `max_threads` is the most threads that a call may use: 0 means as many as the runtime
 *             would use, 1 stays on the caller's thread. Results don't depend on it.
 * Steps       ds_session_step allocates nothing from the second step on (the first one makes room for the slots, and the first
 *             one after a copy for its own) and takes no lock. Sums are made in float64 and rounded once to the element type;
 *             the results have the same bits on every processor, for any number of threads, in place or not. CKernels.h has the
 *             small print.
 * Text        UTF-8. Where a function fills a buffer of the caller's, `capacity` is the buffer's size, and `*length` or `*count`
 *             becomes the size of the whole: bytes without the terminating zero, which is written as well and needs room too,
 *             or numbers. With capacity 0 the buffer may be NULL and the call only tells the size. A buffer that is too small
 *             gives DS_BUFFER_TOO_SMALL; the size is told, and the buffer isn't touched. `length` or `count` may be NULL where
 *             the size is known.
 *
 * The library needs neither a Swift runtime nor anything else but the system's C and C++ libraries.
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

#define DS_VERSION_MAJOR 0
#define DS_VERSION_MINOR 1
#define DS_VERSION_PATCH 0
#define DS_VERSION (DS_VERSION_MAJOR * 10000 + DS_VERSION_MINOR * 100 + DS_VERSION_PATCH)

/* The version of the library that is running, as DS_VERSION counts it. Within a major version functions, numbers and fields of
 * structs keep their meaning; functions and numbers are added. */
uint32_t ds_version(void);

/*
 * Which OpenMP runtime carries the threads, as a sentence; never NULL, valid as long as the process. It is chosen once, at the
 * first call that needs it: the runtime that the process has, else libomp or libgomp of the system, else none, and every call
 * stays on the caller's thread. A second runtime in a process would fight the first for the cores.
 */
const char *ds_runtime_description(void);

/* ---- Errors */

/* The outcome of a call. The numbers are never reused; later versions append. */
typedef enum ds_status {
    DS_OK = 0,

    /* What the Swift library calls SchedulerError, case by case: invalidValue, conflictingKeys, ... */
    DS_INVALID_VALUE = 1,         /* a configuration key or an argument has a value that is not allowed */
    DS_CONFLICTING_KEYS = 2,      /* keys that each are fine exclude one another */
    DS_UNSUPPORTED_SCHEDULER = 3, /* there is no scheduler of that class name */
    DS_INACCESSIBLE_FILE = 4,     /* the file can't be read */
    DS_MALFORMED_JSON = 5,        /* the text isn't the JSON that diffusers writes; the message has line and column */
    DS_TIMESTEPS_NOT_SET = 6,     /* a plan is needed, and no timesteps have been set */
    DS_UNKNOWN_TIMESTEP = 7,      /* the timestep isn't one that the call may have */
    DS_STEP_PAST_END = 8,         /* all steps of the plan have been taken */
    DS_WRONG_ELEMENT_COUNT = 9,   /* a tensor has not the number of elements that the session, or the timesteps, ask for */
    DS_WRONG_ELEMENT_TYPE = 10,   /* tensors of one call, or of one session, have different element types */
    DS_MISSING_NOISE = 11,        /* the step is stochastic, and noise is NULL */
    DS_UNREPRESENTABLE_PLAN = 12, /* a coefficient of the plan isn't finite: the noise levels are too extreme for float64 */
    DS_DAMAGED_STATE = 13,        /* the bytes are no saved state, or not as they were saved */
    DS_FOREIGN_STATE = 14,        /* the state was saved with another plan */

    /* What can go wrong in C only; CallError in the Swift sources. */
    DS_NULL_POINTER = 15,          /* an argument that the call needs is NULL */
    DS_INVALID_HANDLE = 16,        /* the handle is zero, has been freed, or names something of another kind */
    DS_UNKNOWN_ELEMENT_TYPE = 17,  /* the element type is none of ds_element_type */
    DS_INVALID_SHAPE = 18,         /* a negative extent, or a rank above DS_MAX_RANK */
    DS_TOO_LARGE = 19,             /* the elements of a tensor don't fit the address space */
    DS_MISALIGNED = 20,            /* a tensor's address is not a multiple of its element size */
    DS_OVERLAP = 21,               /* an output overlaps an input in part, or overlaps another output */
    DS_SHAPE_MISMATCH = 22,        /* tensors of one call have shapes that don't go together */
    DS_BUFFER_TOO_SMALL = 23,      /* the result doesn't fit the buffer; its size has been told */
    DS_UNSUPPORTED_OPERATION = 24, /* the scheduler has no such operation */

    DS_OUT_OF_MEMORY = 25,    /* there is no memory for a session's slots; SchedulerError.outOfMemory */
    DS_TOO_MANY_HANDLES = 26, /* 4,194,304 things of the kind exist already; CallError.tooManyHandles */
    DS_KERNEL_FAILURE = 27,   /* the kernels refused a call, which is a fault of this library; SchedulerError.kernelFailure */
} ds_status;

/* What a status means, as a sentence; never NULL, valid as long as the process. */
const char *ds_status_message(ds_status status);

/*
 * What went wrong in the last call on this thread that didn't return DS_OK, as a sentence without a full stop; "" before the
 * first. Calls that succeed leave it as it is. Valid until the next call that fails on this thread; at most 1,023 bytes, longer
 * ones are cut off.
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

enum { DS_MAX_RANK = 64 };

/*
 * A contiguous tensor of the caller's. Functions read the struct during the call and keep nothing of it. Tensors that a call
 * only reads are never written to, though `data` isn't const.
 *
 * shape  [rank], each at least 0; may be NULL if rank is 0, which means one element
 */
typedef struct ds_tensor {
    void *data;
    ds_element_type element_type;
    size_t rank;
    const int64_t *shape;
} ds_tensor;

/* ---- Schedulers: making */

typedef struct ds_scheduler {
    uint64_t handle; /* 0: none */
} ds_scheduler;

/* The class names that a scheduler can have, sorted, by index from 0; NULL behind the last. Valid as long as the process. */
const char *ds_supported_class_name(size_t index);

/*
 * ds_scheduler_create makes the scheduler that the text of a scheduler_config.json describes.
 *
 * json        [length] strict JSON, and the bare Infinity, -Infinity and NaN of Python's writer; need not end with a zero. At most
 *             32 MiB, 2^20 values, nested 64 deep, with at most 1,000,000 training timesteps.
 * class_name  NULL: the text's "_class_name". Else the class that is wanted, and the text is only where its values come from:
 *             diffusers' Class.from_config(dict). Keys that the class has no parameter for are kept for the way back, those
 *             listed in "_use_default_values" count as not there.
 * overrides   NULL, or the text of a JSON object whose members replace those of `json`, ends with a zero
 *
 * Errors: DS_NULL_POINTER, DS_MALFORMED_JSON, DS_UNSUPPORTED_SCHEDULER, DS_INVALID_VALUE, DS_CONFLICTING_KEYS.
 */
ds_status ds_scheduler_create(const char *json, size_t length, const char *class_name, const char *overrides,
                              ds_scheduler *scheduler);

/*
 * ds_scheduler_load makes the scheduler that a file describes: diffusers' from_pretrained without the download.
 *
 * path                   a scheduler_config.json, or a folder with one
 * subfolder              NULL, or the folder in that folder that has it ("scheduler" in the repositories of models)
 * class_name, overrides  as for ds_scheduler_create
 *
 * Errors: DS_INACCESSIBLE_FILE, and those of ds_scheduler_create.
 */
ds_status ds_scheduler_load(const char *path, const char *subfolder, const char *class_name, const char *overrides,
                            ds_scheduler *scheduler);

/* Frees a scheduler; its sessions live on. The zero handle is fine and does nothing. Errors: DS_INVALID_HANDLE. */
ds_status ds_scheduler_free(ds_scheduler scheduler);

/* ---- Schedulers: what they are. Errors of all: DS_INVALID_HANDLE, DS_NULL_POINTER; with buffers: DS_BUFFER_TOO_SMALL. */

/* The class name, "DEISMultistepScheduler" say. */
ds_status ds_scheduler_class_name(ds_scheduler scheduler, char *buffer, size_t capacity, size_t *length);

/* The configuration as diffusers writes scheduler_config.json: all parameters, the kept keys, and "_class_name"; keys sorted,
 * ends with a line feed. */
ds_status ds_scheduler_config_json(ds_scheduler scheduler, char *buffer, size_t capacity, size_t *length);

/* The keys of the configuration that have no effect on this scheduler, sorted, as the text of a JSON array of strings. */
ds_status ds_scheduler_unused_keys(ds_scheduler scheduler, char *buffer, size_t capacity, size_t *length);

/* T, the number of timesteps that the model was trained with: diffusers' len(scheduler). */
ds_status ds_scheduler_num_train_timesteps(ds_scheduler scheduler, size_t *count);

/* The signal variances of the training, [T], from timestep 0 on: diffusers' alphas_cumprod, float32 values. */
ds_status ds_scheduler_alphas_cumprod(ds_scheduler scheduler, double *buffer, size_t capacity, size_t *count);

/* The standard deviation of the noise that a run starts with; 1 before timesteps have been set. */
ds_status ds_scheduler_init_noise_sigma(ds_scheduler scheduler, double *sigma);

/* ---- Schedulers: the plan */

/*
 * ds_scheduler_set_timesteps plans a run of n_steps steps. Sessions that exist keep the plan that they were made with.
 *
 * n_steps  from 1 to 100,000; for DDIM and its inverse at most the number of training timesteps
 * mu       NULL, or by how much a run with dynamic shifting shifts its flow sigmas: by e^mu
 *
 * Complexity: O(n_steps), some microseconds for 20 steps. Errors: DS_INVALID_HANDLE, DS_INVALID_VALUE (also for a mu that
 * the configuration has no use for), DS_UNREPRESENTABLE_PLAN.
 */
ds_status ds_scheduler_set_timesteps(ds_scheduler scheduler, size_t n_steps, const double *mu);

/*
 * ds_scheduler_set_custom_timesteps plans a run over timesteps of the caller's choice, [n_steps] from the noisiest on (the other
 * way round for the inverse DPM-Solver). Which values are allowed depends on the scheduler; the message tells.
 */
ds_status ds_scheduler_set_custom_timesteps(ds_scheduler scheduler, const double *timesteps, size_t n_steps);

/*
 * ds_scheduler_set_custom_sigmas plans a run over noise levels of the caller's choice, [n_steps] from the greatest on (the other
 * way round for the inverse DPM-Solver), without the one after the last step, which the configuration decides. DDIM and its
 * inverse step between training timesteps and refuse.
 */
ds_status ds_scheduler_set_custom_sigmas(ds_scheduler scheduler, const double *sigmas, size_t n_steps);

/*
 * ds_ddim_set_timesteps plans a run of DDIMScheduler whose sessions step with these values; the calls above plan with eta 0.
 *
 * eta                       the share of ancestral noise, in [0, 1]: 0 is deterministic, above 0 the steps need noise
 * use_clipped_model_output  whether the noise is computed anew from the clipped clean sample
 *
 * Errors: also DS_UNSUPPORTED_OPERATION for every other scheduler.
 */
ds_status ds_ddim_set_timesteps(ds_scheduler scheduler, size_t n_steps, double eta, bool use_clipped_model_output);

/* What is done to the predicted clean sample. The numbers are never reused; later versions append. */
typedef enum ds_clamp {
    DS_CLAMP_NONE = 0,
    DS_CLAMP_RANGE = 1,     /* p <- min(max(p, -range), range) */
    DS_CLAMP_THRESHOLD = 2, /* p <- min(max(p, -s), s) / s with s = min(max(quantile(|p|, ratio), 1), maximum) of each batch item
                             * (Saharia et al. 2022, arXiv:2205.11487, section 2.3) */
} ds_clamp;

/* How a sample is made of data and noise at the noise level sigma. The numbers are never reused; later versions append. */
typedef enum ds_process {
    DS_VARIANCE_PRESERVING = 0, /* sample = (data + sigma noise) / sqrt(1 + sigma^2) */
    DS_VARIANCE_EXPLODING = 1,  /* sample = data + sigma noise */
    DS_FLOW = 2,                /* sample = (1 - sigma) data + sigma noise */
} ds_process;

/* Properties of a whole plan. */
typedef struct ds_plan_properties {
    size_t n_steps; /* evaluations of the model, one for each timestep */
    size_t n_slots; /* slots that the rows store and read, at most DS_MAX_SLOTS */
    size_t warm_up; /* the age from which on the rows don't depend on it, see ds_scheduler_row */
    double init_noise_sigma;
    ds_clamp clamp;
    double clamp_range;       /* for DS_CLAMP_RANGE, else 0 */
    double threshold_ratio;   /* for DS_CLAMP_THRESHOLD, else 0 */
    double threshold_maximum; /* for DS_CLAMP_THRESHOLD, else 0 */
    bool learns_variance;     /* the model output may hold a predicted variance besides, see ds_session_step */
    bool is_stochastic;       /* some step adds noise */
    ds_process process;
} ds_plan_properties;

/* Errors of this and of what follows: DS_INVALID_HANDLE, DS_NULL_POINTER, DS_TIMESTEPS_NOT_SET; with buffers also
 * DS_BUFFER_TOO_SMALL. */
ds_status ds_scheduler_plan_properties(ds_scheduler scheduler, ds_plan_properties *properties);

/* The number of steps of the plan. */
ds_status ds_scheduler_step_count(ds_scheduler scheduler, size_t *count);

/* What the model is told at each step, [n_steps]. Before timesteps have been set: those of the training, [T], noisiest first, as
 * in diffusers. */
ds_status ds_scheduler_timesteps(ds_scheduler scheduler, double *buffer, size_t capacity, size_t *count);

/* The noise levels that the steps lead between, [n_steps + 1]: step i goes from sigmas[i] to sigmas[i + 1]. Before timesteps have
 * been set: those of the training, [T], noisiest first. Float32 values. */
ds_status ds_scheduler_sigmas(ds_scheduler scheduler, double *buffer, size_t capacity, size_t *count);

/* The rates at each of the plan's noise levels, [n_steps + 1]: a sample there is signal_rate * data + noise_rate * noise. */
ds_status ds_scheduler_signal_rates(ds_scheduler scheduler, double *buffer, size_t capacity, size_t *count);
ds_status ds_scheduler_noise_rates(ds_scheduler scheduler, double *buffer, size_t capacity, size_t *count);

/* What the sample is multiplied with to become the model's input at each step, [n_steps]. */
ds_status ds_scheduler_input_scales(ds_scheduler scheduler, double *buffer, size_t capacity, size_t *count);

enum {
    DS_MAX_SLOTS = 6,
    DS_MAX_STORES = 2,
};

/* The coefficients of a sum of tensors. A coefficient of 0 means that the tensor isn't read. */
typedef struct ds_combination {
    double sample;              /* of the sample x */
    double model_output;        /* of the model output e */
    double noise;               /* of the noise z */
    double prediction;          /* of the clamped prediction p */
    double slots[DS_MAX_SLOTS]; /* of what earlier steps stored there */
} ds_combination;

/* What a slot holds after a step. */
typedef struct ds_store {
    size_t slot; /* from 0 on */
    ds_combination value;
} ds_store;

/*
 * The scalars of one step, for engines whose tensors live elsewhere:
 *
 *     p                 = clamp( prediction of x, e, z )
 *     next sample       = next_sample of x, e, z, p, slots
 *     stores[i].slot   <- stores[i].value of x, e, z, p, slots     for i < n_stores, all from the slots as they were before
 *     report            = report of x, e, z, p, slots              what ds_session_step writes to pred_original_sample
 */
typedef struct ds_row {
    ds_combination prediction;
    ds_combination next_sample;
    size_t n_stores;
    ds_store stores[DS_MAX_STORES];
    ds_combination report;
    size_t n_noise_draws; /* tensors of noise that diffusers draws for the step, whether it reads them or not; the last is read */
} ds_row;

/*
 * ds_scheduler_row gives the scalars of step `index` in a run that has taken `age` steps before: `index` in a run from the start, 0 at
 * the first step of a run that begins later. Ages of warm_up and more have the same row.
 * Errors: also DS_INVALID_VALUE for an index that is no step.
 */
ds_status ds_scheduler_row(ds_scheduler scheduler, size_t index, size_t age, ds_row *row);

/*
 * The whole plan as JSON, all rows of coefficients included: the coded form of the Swift library's SamplingPlan, which reads it.
 * Numbers have as many digits as tell them apart.
 */
ds_status ds_scheduler_plan_json(ds_scheduler scheduler, char *buffer, size_t capacity, size_t *length);

/* ---- Sessions */

typedef struct ds_session {
    uint64_t handle; /* 0: none */
} ds_session;

/*
 * ds_session_create makes a session on the plan that the scheduler has now. The scheduler may be freed or planned anew
 * afterwards.
 *
 * begin_index  the first step to take, at most n_steps. Later ones than 0 are for image-to-image: add noise to the image at
 *              timesteps[begin_index] first.
 *
 * Errors: DS_INVALID_HANDLE, DS_NULL_POINTER, DS_TIMESTEPS_NOT_SET, DS_INVALID_VALUE.
 */
ds_status ds_session_create(ds_scheduler scheduler, size_t begin_index, ds_session *session);

/* Frees a session. The zero handle is fine and does nothing. Errors: DS_INVALID_HANDLE. */
ds_status ds_session_free(ds_session session);

/* Makes a second session that stands where this one does and goes its own way from there. The slots are shared
 * until one of the two steps. Errors: DS_INVALID_HANDLE, DS_NULL_POINTER. */
ds_status ds_session_copy(ds_session session, ds_session *copy);

/* Goes back to the first step and forgets slots, element type and shape, for another request. Errors: DS_INVALID_HANDLE. */
ds_status ds_session_reset(ds_session session);

/* The step that comes next, from 0; the plan's number of steps after the last one. Errors: DS_INVALID_HANDLE, DS_NULL_POINTER. */
ds_status ds_session_step_index(ds_session session, size_t *index);

/* What the model is told at the next step. Errors: DS_INVALID_HANDLE, DS_NULL_POINTER; DS_STEP_PAST_END after the last step. */
ds_status ds_session_timestep(ds_session session, double *timestep);

/* Whether the next step adds noise. Errors: as ds_session_timestep. */
ds_status ds_session_needs_noise(ds_session session, bool *needs_noise);

/*
 * ds_session_step takes the next step: from the sample at this step's timestep to the next sample.
 *
 * model_output          what the model said at this timestep, of any element type. If the plan has learns_variance, axis 1 (axis
 *                       0 of a tensor of rank 1) may be twice as long as the sample's: the first half of each batch item is the
 *                       prediction, the second half, its variance, is passed over.
 * sample                decides the shape. The first step of a session decides the element type and the number of elements of all.
 *                       The slots have the sample's type.
 * noise                 standard normal numbers; NULL where the step needs none
 * prev_sample           becomes the next sample (the previous one on the way from data to noise, hence diffusers' name)
 * pred_original_sample  NULL, or becomes the predicted clean sample, after the clamp
 *
 * The outputs may be the memory of sample, model_output (unless it holds variances) or noise, not both of the same.
 *
 * Complexity: one pass over memory; the call itself takes some 0.1 microseconds. No allocation but for the slots at the first
 * step and at the first one after a copy; no lock.
 * Errors: DS_INVALID_HANDLE, DS_STEP_PAST_END, DS_MISSING_NOISE, DS_OUT_OF_MEMORY (where it allocates), and the errors of tensors:
 * DS_NULL_POINTER, DS_UNKNOWN_ELEMENT_TYPE, DS_INVALID_SHAPE, DS_TOO_LARGE, DS_MISALIGNED, DS_OVERLAP, DS_SHAPE_MISMATCH,
 * DS_WRONG_ELEMENT_TYPE, DS_WRONG_ELEMENT_COUNT.
 */
ds_status ds_session_step(ds_session session, const ds_tensor *model_output, const ds_tensor *sample, const ds_tensor *noise,
                          const ds_tensor *prev_sample, const ds_tensor *pred_original_sample, unsigned max_threads);

/*
 * Guidance without a classifier (Ho and Salimans 2022, arXiv:2207.12598, equation 6), rescaled on request (Lin et al. 2023,
 * arXiv:2305.08891, section 3.4). With the model's outputs e_c under a condition and e_u without it, a guided step uses
 *
 *     e = e_u + scale (e_c - e_u),  and then  e <- rescale e std(e_c) / std(e) + (1 - rescale) e  of each batch item
 *
 * scale    finite; diffusers' guidance_scale. At 1, e is e_c, and e_u isn't read.
 * rescale  in [0, 1]; diffusers' guidance_rescale. An item of which e is the same everywhere is left as it is.
 */
typedef struct ds_guidance {
    double scale;
    double rescale;
} ds_guidance;

/*
 * ds_session_step_guided takes the next step with a guided model output, which is computed on the way: that costs the reading of one
 * more tensor, and one more pass over both outputs where it is rescaled. Nothing is rounded to an element type in between.
 *
 * conditional, unconditional  e_c and e_u: each as model_output for ds_session_step, both of one element type and shape
 * others                      as for ds_session_step; the outputs may be the memory of unconditional as well
 *
 * Errors: as ds_session_step, and DS_INVALID_VALUE for the guidance.
 */
ds_status ds_session_step_guided(ds_session session, const ds_tensor *conditional, const ds_tensor *unconditional,
                                 const ds_guidance *guidance, const ds_tensor *sample, const ds_tensor *noise,
                                 const ds_tensor *prev_sample, const ds_tensor *pred_original_sample, unsigned max_threads);

/*
 * ds_step_rows takes the next step of many sessions at once: index i of axis 0 of the tensors belongs to sessions[i]. For engines
 * that serve many requests with one model: every session has a plan, a step, a solver and an order of its own, and sessions come
 * and go between calls. Every row becomes, bit for bit, what it becomes alone. One parallel region for all.
 *
 * sessions       [n_rows], no session twice; the zero handle where a row is free: what the tensors have there is neither read nor
 *                written
 * model_output   [n_rows, ...] as for ds_session_step; e_c in the rows that are guided. With a predicted variance (axis 1 twice as
 *                long, rank 2 or more) all sessions' plans need learns_variance.
 * unconditional  NULL, or e_u, like model_output
 * guidance       NULL, or [n_rows]; a scale of 1 for rows that aren't guided
 * sample         [n_rows, ...]; a row is one batch item
 * noise          NULL where no row needs it, else shaped as sample, read in the rows that need it
 * others         as for ds_session_step
 *
 * Allocates some 600 bytes a row. Errors: as ds_session_step_guided, the message begins with the row; DS_INVALID_VALUE where a
 * session occurs twice. On error no session and no tensor has changed.
 */
ds_status ds_step_rows(const ds_session *sessions, size_t n_rows, const ds_tensor *model_output, const ds_tensor *unconditional,
                       const ds_guidance *guidance, const ds_tensor *sample, const ds_tensor *noise, const ds_tensor *prev_sample,
                       const ds_tensor *pred_original_sample, unsigned max_threads);

/*
 * ds_session_convert_model_output computes what the solver extrapolates from a model output at the next step: the predicted
 * noise for DEIS and DPM-Solver, the predicted clean sample for DPM-Solver++; after the clamp. The session doesn't change.
 *
 * model_output, sample  as for ds_session_step
 * converted             shaped as sample; may be the memory of one of them
 *
 * Errors: as ds_session_step; DS_UNSUPPORTED_OPERATION for DDIM and its inverse, which extrapolate nothing.
 */
ds_status ds_session_convert_model_output(ds_session session, const ds_tensor *model_output, const ds_tensor *sample,
                                          const ds_tensor *converted, unsigned max_threads);

/*
 * ds_session_update computes the next sample from converted model outputs by an update of a certain order: diffusers'
 * dpm_solver_first_order_update, multistep_dpm_solver_second_order_update, ... The session doesn't change.
 *
 * order          1, 2 or 3, at most 1 more than the step's index
 * model_outputs  [n_model_outputs] converted outputs, this step's last, the ones of the steps before it before it; at least
 *                `order` of them, of which the last ones count
 * noise          for stochastic solvers, else NULL
 * prev_sample    becomes the next sample; may be the memory of any input
 *
 * Errors: as ds_session_convert_model_output, and DS_INVALID_VALUE for orders and numbers of outputs.
 */
ds_status ds_session_update(ds_session session, unsigned order, const ds_tensor *model_outputs, size_t n_model_outputs,
                            const ds_tensor *sample, const ds_tensor *noise, const ds_tensor *prev_sample, unsigned max_threads);

/*
 * ds_session_save writes the session's state: its steps, slots, element type and number of elements, and a fingerprint of its
 * plan; with a checksum, in the same form on every machine. The size is 72 bytes and the elements of the slots that are still read.
 *
 * bytes  [capacity]; see Text in the introduction for asking for the size
 *
 * Errors: DS_INVALID_HANDLE, DS_NULL_POINTER, DS_BUFFER_TOO_SMALL.
 */
ds_status ds_session_save(ds_session session, void *bytes, size_t capacity, size_t *length);

/*
 * ds_session_restore makes a session that stands where the saved one stood. What follows has the same bits as if it had never
 * been saved. The scheduler must have the same plan, to the last bit of its coefficients; in another process or on another
 * machine too.
 *
 * bytes  [length] as ds_session_save wrote them
 *
 * Errors: DS_INVALID_HANDLE, DS_NULL_POINTER, DS_TIMESTEPS_NOT_SET, DS_DAMAGED_STATE, DS_FOREIGN_STATE, DS_OUT_OF_MEMORY.
 */
ds_status ds_session_restore(ds_scheduler scheduler, const void *bytes, size_t length, ds_session *session);

/*
 * ds_session_create_on_plan makes a session on a plan that ds_scheduler_plan_json wrote, here or elsewhere, without a scheduler. For
 * further ones copy it: copies share the plan. ds_session_convert_model_output and ds_session_update have nothing to go by there.
 *
 * json  [length] need not end with a zero
 *
 * Errors: DS_NULL_POINTER, DS_MALFORMED_JSON, DS_INVALID_VALUE, DS_UNREPRESENTABLE_PLAN.
 */
ds_status ds_session_create_on_plan(const char *json, size_t length, size_t begin_index, ds_session *session);

/* ds_session_restore_beside is ds_session_restore with the plan of a session instead of a scheduler's. */
ds_status ds_session_restore_beside(ds_session other, const void *bytes, size_t length, ds_session *session);

/* ---- Beside the steps. These change no scheduler; the errors are those of handles and tensors (see ds_session_step), and what
 * else is said. */

/*
 * ds_scheduler_add_noise computes out = signal_rate * sample + noise_rate * noise with the rates of each batch item's timestep.
 *
 * timesteps  [n_timesteps] one for all elements, or one for each index of axis 0. With a plan they are the plan's (the first step
 *            that has it counts), without one, and always for DDIM, those of the training.
 * out        may be the memory of sample or noise
 *
 * Errors: DS_UNKNOWN_TIMESTEP, DS_WRONG_ELEMENT_COUNT.
 */
ds_status ds_scheduler_add_noise(ds_scheduler scheduler, const ds_tensor *sample, const ds_tensor *noise, const double *timesteps,
                                 size_t n_timesteps, const ds_tensor *out, unsigned max_threads);

/*
 * ds_add_noise_at computes the same with rates of the caller's, such as ds_scheduler_signal_rates and ds_scheduler_noise_rates
 * at indices that the caller looked up.
 *
 * signal_rates, noise_rates  [n_rates] finite; one for all elements, or one for each index of axis 0
 */
ds_status ds_add_noise_at(const ds_tensor *sample, const ds_tensor *noise, const double *signal_rates, const double *noise_rates,
                          size_t n_rates, const ds_tensor *out, unsigned max_threads);

/*
 * ds_scheduler_get_velocity computes out = signal_rate * noise - noise_rate * sample, which a model of v_prediction is trained
 * on. Arguments as for ds_scheduler_add_noise. Errors: also DS_UNSUPPORTED_OPERATION for other schedulers than DDIMScheduler.
 */
ds_status ds_scheduler_get_velocity(ds_scheduler scheduler, const ds_tensor *sample, const ds_tensor *noise,
                                    const double *timesteps, size_t n_timesteps, const ds_tensor *out, unsigned max_threads);

/* ds_scheduler_scale_model_input scales a sample to what the model expects as its input at a timestep. All schedulers of this
 * version leave it as it is, so that `out` becomes a copy, if it isn't the memory of sample. */
ds_status ds_scheduler_scale_model_input(ds_scheduler scheduler, const ds_tensor *sample, double timestep, const ds_tensor *out,
                                         unsigned max_threads);

/*
 * ds_ddim_step takes a step of DDIMScheduler without a session: it depends on nothing but its arguments and the number of steps
 * that has been set. Any thread may take any step in any order; no allocation, no lock.
 *
 * timestep                                         a training timestep: a whole number from 0 to T - 1
 * eta, use_clipped_model_output                    see ds_ddim_set_timesteps
 * noise                                            for eta > 0, else NULL
 * model_output, sample                             as for ds_session_step, without variances
 * prev_sample, pred_original_sample, max_threads   as for ds_session_step
 *
 * Errors: DS_TIMESTEPS_NOT_SET, DS_UNKNOWN_TIMESTEP, DS_INVALID_VALUE (eta), DS_MISSING_NOISE; DS_UNSUPPORTED_OPERATION for other
 * schedulers.
 */
ds_status ds_ddim_step(ds_scheduler scheduler, double timestep, double eta, bool use_clipped_model_output,
                       const ds_tensor *model_output, const ds_tensor *sample, const ds_tensor *noise, const ds_tensor *prev_sample,
                       const ds_tensor *pred_original_sample, unsigned max_threads);

/* ds_ddim_inverse_step takes the step of DDIMInverseScheduler that leads to a training timestep, likewise. */
ds_status ds_ddim_inverse_step(ds_scheduler scheduler, double timestep, const ds_tensor *model_output, const ds_tensor *sample,
                               const ds_tensor *prev_sample, const ds_tensor *pred_original_sample, unsigned max_threads);

/*
 * ds_ddim_row and ds_ddim_inverse_row give the scalars of those steps, for engines whose tensors live elsewhere:
 * at any training timestep, also where ds_scheduler_row has none for it. The clamp is that of
 * ds_scheduler_plan_properties, the predicted clean sample is p.
 *
 * Complexity: O(1). Errors: DS_NULL_POINTER, and those of the steps but for the tensors'.
 */
ds_status ds_ddim_row(ds_scheduler scheduler, double timestep, double eta, bool use_clipped_model_output, ds_row *row);
ds_status ds_ddim_inverse_row(ds_scheduler scheduler, double timestep, ds_row *row);

/*
 * ds_rescale_noise_cfg computes, for each batch item, guidance whose strength doesn't change the contrast of the picture (Lin et
 * al. 2023, arXiv:2305.08891, section 3.4):
 *
 *     out = factor * guided,   factor = r std(conditional) / std(guided) + (1 - r)
 *
 * guidance_rescale  r in [0, 1]; the paper uses 0.7
 * out               may be the memory of guided or conditional
 *
 * An item whose elements are all the same is copied. Errors: DS_INVALID_VALUE.
 */
ds_status ds_rescale_noise_cfg(const ds_tensor *guided, const ds_tensor *conditional, double guidance_rescale, const ds_tensor *out,
                               unsigned max_threads);

/* ---- Noise: standard normal numbers that agree, seed by seed and call by call, with those of torch and of NumPy */

typedef struct ds_noise {
    uint64_t handle; /* 0: none */
} ds_noise;

/* The generators. The numbers are never reused; later versions append. */
typedef enum ds_noise_kind {
    DS_NOISE_TORCH_CPU = 0,  /* torch.randn on a CPU, every bit; float32 and float64 */
    DS_NOISE_TORCH_CUDA = 1, /* torch.randn on CUDA, as on an A100, within 2^-20 of the radius; float32 */
    DS_NOISE_NUMPY = 2,      /* numpy.random.RandomState.standard_normal, every bit; float64, and float32 rounded from it */
} ds_noise_kind;

/*
 * ds_noise_create makes a noise source.
 *
 * seed  torch's manual_seed: any, of which torch's CPU generator uses the low 32 bits; NumPy's: below 2^32
 *
 * Errors: DS_NULL_POINTER, DS_INVALID_VALUE.
 */
ds_status ds_noise_create(ds_noise_kind kind, uint64_t seed, ds_noise *noise);

/*
 * ds_noise_create_torch_cuda makes a source of the kind DS_NOISE_TORCH_CUDA for a certain device, which matters for tensors of
 * more than some 100,000 elements.
 *
 * offset                         what Generator.get_offset() tells, a multiple of 4; 0 after seeding
 * n_multiprocessors              torch.cuda.get_device_properties(0).multi_processor_count, from 1 to 65,535
 * n_threads_per_multiprocessor   torch.cuda.get_device_properties(0).max_threads_per_multi_processor, from 256 to 65,535
 */
ds_status ds_noise_create_torch_cuda(uint64_t seed, uint64_t offset, unsigned n_multiprocessors,
                                     unsigned n_threads_per_multiprocessor, ds_noise *noise);

/* Frees a source. The zero handle is fine and does nothing. Errors: DS_INVALID_HANDLE. */
ds_status ds_noise_free(ds_noise noise);

/* Makes a second source that gives the same numbers from here on. Errors: DS_INVALID_HANDLE, DS_NULL_POINTER. */
ds_status ds_noise_copy(ds_noise noise, ds_noise *copy);

/*
 * ds_noise_fill overwrites a tensor with the next numbers. One call stands for one torch.randn or standard_normal of that number
 * of elements, whatever the shape; two calls of 8 are not one call of 16.
 *
 * out  float32, or float64 for the kinds that have it; at most 2^29 elements for DS_NOISE_TORCH_CUDA
 *
 * Errors: those of tensors; DS_WRONG_ELEMENT_TYPE for types that the source doesn't make.
 */
ds_status ds_noise_fill(ds_noise noise, const ds_tensor *out, unsigned max_threads);

/* Saves and restores where a source stands, as ds_session_save and ds_session_restore do. Less than 3,000 bytes. */
ds_status ds_noise_save(ds_noise noise, void *bytes, size_t capacity, size_t *length);
ds_status ds_noise_restore(const void *bytes, size_t length, ds_noise *noise);

#ifdef __cplusplus
}
#endif

#endif
