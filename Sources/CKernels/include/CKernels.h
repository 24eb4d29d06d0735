/*
 * CKernels: the tensor arithmetic of diffusion schedulers, one pass over memory.
 *
 * A step of almost every diffusion scheduler is affine in tensors. With the sample x, the model output e (e2: a second one,
 * for guidance), noise z and up to six remembered tensors s1 ... s6, all of one shape,
 *
 *     p       = T( combination of x, e, e2, z )                      a prediction that may be clamped by T
 *     out[k]  =    combination of x, e, e2, z, s1 ... s6, p          k = 0, 1, 2
 *
 * A `dsk_row` holds the scalars of that map, a `dsk_item` says where the tensors lie, and `dsk_step` executes any number of
 * items. Which solver the scalars belong to is not known here, so a new solver needs no new kernel.
 *
 * The same map serves the neighbours of a step: adding noise is out = a x + s z, scaling is out = c x.
 *
 * Memory      Every input stream is read once and every output stream is written once; nothing is allocated, ever.
 * Arithmetic  float32 elements are computed in float32, float64 in float64, without fused multiply-add, each output as the
 *             sum of its terms in the order of the `dsk_input` indices, p last. A coefficient that is zero means that the
 *             term is absent: its tensor isn't read, and an infinity in it doesn't turn into a NaN.
 *             The result has the same bits on every instruction set, for any number of threads, in place or not.
 * Error       With t terms, |computed - exact| <= (t + 1) u sum |coefficient * input| + O(u^2) for the rounded coefficients'
 *             unit roundoff u (2^-24, 2^-53), as long as nothing overflows; see Higham, Accuracy and Stability of Numerical
 *             Algorithms (2002), section 3.1. A clamp adds one rounding for its division.
 * Threads     All functions may be called from any thread at any time, on different data. The work is shared among the
 *             threads of the OpenMP runtime that the process has (see `dsk_runtime_description`).
 * Status      Functions that can fail return a `dsk_status`. Arguments are checked before the first element is written.
 */
#ifndef DSK_CKERNELS_H
#define DSK_CKERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The outcome of a call. The numbers are never reused; later versions append. */
typedef enum dsk_status {
    DSK_OK = 0,
    DSK_NULL_POINTER = 1,   /* an array or a row that the call needs is NULL */
    DSK_UNKNOWN_TYPE = 2,   /* the element type is none of `dsk_element_type` */
    DSK_MISSING_INPUT = 3,  /* a coefficient is not zero but its tensor is NULL */
    DSK_MISALIGNED = 4,     /* a tensor's address is not a multiple of its element size */
    DSK_OVERLAP = 5,        /* an output partly overlaps an input, or overlaps another output */
    DSK_TOO_LARGE = 6,      /* the elements of the call don't fit the address space */
    DSK_OUT_OF_RANGE = 7,   /* a ratio, a clamp or a limit is outside its stated range */
} dsk_status;

/* A sentence in English that says what the status means; never NULL. */
const char *dsk_status_message(dsk_status status);

/* The type of a call's elements. The numbers are never reused; later versions append. */
typedef enum dsk_element_type {
    DSK_FLOAT32 = 0,
    DSK_FLOAT64 = 1,
} dsk_element_type;

/* Bytes of one element; 0 for an unknown type. */
size_t dsk_element_size(dsk_element_type type);

/* The tensors a step may read, as indices of `dsk_item.inputs` and of coefficients. */
typedef enum dsk_input {
    DSK_SAMPLE = 0,           /* x  */
    DSK_MODEL_OUTPUT = 1,     /* e  */
    DSK_MODEL_OUTPUT_2 = 2,   /* e2 */
    DSK_NOISE = 3,            /* z  */
    DSK_SLOT_1 = 4,           /* s1; s2 ... s6 follow */
    DSK_INPUT_COUNT = 10,
    DSK_PREDICTION = 10,      /* p, which is computed and has no tensor */
    DSK_TERM_COUNT = 11,
} dsk_input;

enum {
    DSK_PREDICTION_INPUT_COUNT = 4, /* p is a combination of x, e, e2 and z */
    DSK_OUTPUT_COUNT = 3,
};

/* What T does to the prediction. */
typedef enum dsk_clamp {
    DSK_CLAMP_NONE = 0,
    DSK_CLAMP_RANGE = 1,      /* p <- min(max(p, -r), r) with r = `dsk_row.clamp_range` */
    DSK_CLAMP_THRESHOLD = 2,  /* p <- min(max(p, -s), s) / s with s = `dsk_item.threshold` */
} dsk_clamp;

/* The scalars of one step. They are rounded once to the type of the arithmetic. */
typedef struct dsk_row {
    double prediction[DSK_PREDICTION_INPUT_COUNT];
    double outputs[DSK_OUTPUT_COUNT][DSK_TERM_COUNT];
    dsk_clamp clamp;
    double clamp_range; /* > 0; read for DSK_CLAMP_RANGE only */
} dsk_row;

/*
 * One item of a step: a whole tensor, or one batch item where items have coefficients or thresholds of their own.
 *
 * inputs      [DSK_INPUT_COUNT] addresses of n_elements elements each; NULL where no coefficient asks for the tensor.
 * outputs     [DSK_OUTPUT_COUNT] addresses of n_elements elements each; NULL: this output isn't wanted.
 *             An output may be the very address of an input (in place); it may not overlap one in part, nor another output.
 *             Outputs of one item may not overlap inputs or outputs of another item of the same call.
 */
typedef struct dsk_item {
    const dsk_row *row;
    const void *inputs[DSK_INPUT_COUNT];
    void *outputs[DSK_OUTPUT_COUNT];
    size_t n_elements;
    double threshold;
} dsk_item;

/*
 * dsk_step executes items: reads each item's inputs once, writes its outputs once.
 *
 * items        [n_items]
 * max_threads  0: as many as the OpenMP runtime would use; 1: stay on the caller's thread; n: at most n.
 *
 * Errors: DSK_NULL_POINTER, DSK_UNKNOWN_TYPE, DSK_MISSING_INPUT, DSK_MISALIGNED, DSK_OVERLAP, DSK_TOO_LARGE,
 * DSK_OUT_OF_RANGE (clamp). On error nothing is written.
 */
dsk_status dsk_step(dsk_element_type type, const dsk_item *items, size_t n_items, unsigned max_threads);

/*
 * dsk_find_thresholds computes the dynamic threshold of every item's prediction and stores it in `items[i].threshold`:
 *
 *     s = min( max( quantile(|p|, ratio), 1 ), max_value )
 *
 * so that a following dsk_step with DSK_CLAMP_THRESHOLD clamps p to [-s, s] and divides by s (Saharia et al. 2022,
 * arXiv:2205.11487, section 2.3; max_value < 1 wins over the 1, as clamping does in torch). The quantile interpolates
 * linearly between order statistics: with the sorted values v[0 ... m-1], r = ratio * (m - 1), k = floor(r), it is
 * v[k] + (r - k) (v[k+1] - v[k]). It is exact: v[k] and v[k+1] are found by radix selection on the bits of |p|, the
 * interpolation is done in float64 and rounded once. For float32 elements `ratio` is rounded to float32 first, as torch does.
 * A NaN anywhere in an item makes that item's threshold NaN, and so the whole item NaN.
 *
 * ratio      in [0, 1]
 * max_value  > 0
 *
 * Reads the tensors of p three times (float64: six); once when max_value <= 1, where only a NaN can change the answer.
 * An empty item gets min(1, max_value). Needs no memory beyond 32 KiB of stack a thread.
 * Errors: as dsk_step, and DSK_OUT_OF_RANGE for ratio and max_value. On error no threshold is written.
 */
dsk_status dsk_find_thresholds(dsk_element_type type, dsk_item *items, size_t n_items, double ratio, double max_value,
                               unsigned max_threads);

/*
 * dsk_add_noise computes out[i] = signal_rates[i] * sample[i] + noise_rates[i] * noise[i] for every batch item i.
 *
 * sample, noise, out         [n_items, n_elements_per_item]; out may be sample or noise
 * signal_rates, noise_rates  [n_items]
 */
dsk_status dsk_add_noise(dsk_element_type type, const void *sample, const void *noise, const double *signal_rates,
                         const double *noise_rates, size_t n_items, size_t n_elements_per_item, void *out,
                         unsigned max_threads);

/* dsk_scale computes out = factor * sample for n_elements elements; out may be sample. */
dsk_status dsk_scale(dsk_element_type type, const void *sample, double factor, size_t n_elements, void *out,
                     unsigned max_threads);

/*
 * The instruction sets a build may choose from, best last. Builds for other processors than x86-64 know the baseline only:
 * what the compiler was told to use.
 */
typedef enum dsk_isa {
    DSK_ISA_BASELINE = 0,
    DSK_ISA_AVX2 = 1,
    DSK_ISA_AVX512 = 2,
} dsk_isa;

/*
 * dsk_limit_isa makes later calls use no better instruction set than `limit` (for tests, and to tell a processor's fault
 * from ours); returns the one that is used from now on, which is the best that both the limit and the processor allow.
 * Holds for the whole process; results don't depend on it.
 */
dsk_isa dsk_limit_isa(dsk_isa limit);

/*
 * Sizes at which dsk_step changes its way of working; results don't depend on them. Both hold for the whole process.
 *
 * parallel_elements  a call with fewer elements stays on the caller's thread (starting threads would take longer)
 * streaming_bytes    a call that reads and writes at least so much bypasses the caches for outputs that are no inputs
 *
 * The defaults were measured (benchmarks of this repository); `dsk_get_limits` returns what is in force.
 */
typedef struct dsk_limits {
    size_t parallel_elements;
    size_t streaming_bytes;
} dsk_limits;

dsk_limits dsk_get_limits(void);
void dsk_set_limits(dsk_limits limits);

/*
 * Which OpenMP runtime carries the threads, as a sentence; never NULL. It is chosen once, at the first call that needs it:
 *
 *   1. compiled with -fopenmp: the compiler's own;
 *   2. the runtime that the process has (GNU's, LLVM's and Intel's all export the entry GOMP_parallel);
 *   3. libomp, else libgomp, loaded from the system;
 *   4. none: every call stays on the caller's thread.
 *
 * A second runtime in a process fights the first for the cores, hence 2 before 3.
 */
const char *dsk_runtime_description(void);

/* The number of threads that a call with max_threads 0 may use from the calling thread. */
unsigned dsk_default_thread_count(void);

#define DSK_VERSION_MAJOR 0
#define DSK_VERSION_MINOR 1
#define DSK_VERSION_PATCH 0

/* The version of the compiled library: major * 10000 + minor * 100 + patch. */
unsigned dsk_version(void);

#ifdef __cplusplus
}
#endif

#endif
