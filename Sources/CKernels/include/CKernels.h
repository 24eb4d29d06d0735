/* SPDX-License-Identifier: Apache-2.0 */

/*
 * CKernels: the tensor arithmetic of diffusion schedulers, in one pass over memory.
 *
 * A step of almost every diffusion scheduler is affine in tensors. The tensors are the sample x, the model output e (and e2, a
 * second one, for guidance), noise z, up to six remembered tensors s1 ... s6 and a variance v that the model predicts, all of the
 * same shape:
 *
 *     p       = T( combination of x, e, e2, z )                      a prediction that T may clamp
 *     out[k]  =    combination of x, e, e2, f z, s1 ... s6, v, p     k = 0, 1, 2
 *
 * If the model has learned the noise's variance, each element of z has a factor f: the root or an exponential of v.
 *
 * A `dsk_row` holds the scalars of that map. `dsk_prepare_row` prepares it once for all steps that take it. A `dsk_item` holds the
 * tensors' addresses, and `dsk_step` executes any number of items. The kernels don't know the solver behind the scalars, so a new
 * solver needs no new kernel.
 *
 * Adding noise and scaling are maps of this form too: out = a x + s z and out = c x.
 *
 * Memory      A step reads each input stream once and writes each output stream once. Nothing is ever allocated. A call takes at
 *             most 64 KiB of each thread's stack.
 * Types       Each tensor has its own element type, also within an item: engines run models in float16 or bfloat16 and keep samples
 *             in float32. Conversions happen in registers and take no extra pass.
 * Arithmetic  An output's terms are summed in the order of the `dsk_input` indices, p last. The sum is rounded once, to nearest
 *             even, to the output's type. Elements are widened first, which is exact. The width depends on the widest type among
 *             the tensors that the item reads and writes:
 *
 *                 float16, bfloat16  sums and p in float32; coefficients rounded to float32, products rounded before the addition
 *                 float32            sums in float64, p in float32; coefficients rounded to 29 bits, products exact
 *                 float64            sums and p in float64; coefficients unchanged, products rounded
 *
 *             p is rounded to its type before and after T.
 *             An item whose noise has a factor counts as float32 if all its tensors are halves. f is computed in float64, to a
 *             relative error of 2^-51 in addition to its argument's, and f z is rounded to p's type.
 *             A zero coefficient means that the term is absent: its tensor isn't read, and an infinity in it doesn't become a NaN.
 *             An output that copies an input of the same type has the input's bits; if two outputs do, one may quiet NaNs.
 *             The result has the same bits on every instruction set, for any number of threads, in place or not, for coefficients
 *             that are 0 or from 2^-800 to 2^800 in magnitude. NaNs stay NaNs, but their bits may differ. Items of half types alone
 *             need coefficients in float32's range, from 2^-126 to 2^127.
 *             Subnormal numbers are kept. The calling thread's rounding mode and traps have no effect: see
 *             `dsk_begin_default_environment`.
 * Error       If nothing overflows and no float32 sum is subnormal, the error of an output that doesn't use p is at most
 *
 *                 max( u |out|, least / 2 ) + e sum |coefficient * input|
 *
 *             to first order. For t terms, e is (t + 1) 2^-24 if the widest type is a half, 2^-29 if it is float32, and t 2^-53 if
 *             it is float64. u and the least positive number are those of the output's type:
 *
 *                 float16    u = 2^-11   least = 2^-24   greatest = 65504           values from 65520 on become infinity
 *                 bfloat16   u = 2^-8    least = 2^-133  greatest = (2 - 2^-7) 2^127
 *                 float32    u = 2^-24   least = 2^-149  greatest = (2 - 2^-23) 2^127
 *                 float64    u = 2^-53   least = 2^-1074
 *
 *             See Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1.
 * Threads     All functions may be called from any thread at any time, on different data. The work is shared among the threads of
 *             the process's OpenMP runtime (see `dsk_runtime_description`).
 * Status      Functions that can fail return a `dsk_status`. Arguments are checked before the first element is written.
 */
#ifndef DSK_CKERNELS_H
#define DSK_CKERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The outcome of a call. The numbers are never reused; later versions append. */
typedef enum dsk_status {
    DSK_OK = 0,
    DSK_NULL_POINTER = 1,  /* a required array or row is NULL */
    DSK_UNKNOWN_TYPE = 2,  /* an element type is not one of `dsk_element_type` */
    DSK_MISSING_INPUT = 3, /* a coefficient is nonzero but its tensor is NULL */
    DSK_MISALIGNED = 4,    /* a tensor's address is not a multiple of its element size */
    DSK_OVERLAP = 5,       /* an output partly overlaps an input of its item, or overlaps another output */
    DSK_TOO_LARGE = 6,     /* the elements of the call don't fit the address space */
    DSK_OUT_OF_RANGE = 7,  /* a ratio, a clamp or a limit is outside its documented range */
} dsk_status;

/* The meaning of a status, as a sentence in English; never NULL. */
const char *dsk_status_message(dsk_status status);

/* The type of a tensor's elements. The numbers are never reused; later versions append. */
typedef enum dsk_element_type {
    DSK_FLOAT32 = 0,
    DSK_FLOAT64 = 1,
    DSK_FLOAT16 = 2,  /* IEEE 754's binary16: 5 bits of exponent, 10 of fraction */
    DSK_BFLOAT16 = 3, /* the upper half of a float32: 8 bits of exponent, 7 of fraction */
} dsk_element_type;

/* Bytes of one element; 0 for an unknown type. */
size_t dsk_element_size(dsk_element_type type);

/* The tensors that a step may read: indices of `dsk_item.inputs` and of coefficients. */
typedef enum dsk_input {
    DSK_SAMPLE = 0,         /* x  */
    DSK_MODEL_OUTPUT = 1,   /* e  */
    DSK_MODEL_OUTPUT_2 = 2, /* e2 */
    DSK_NOISE = 3,          /* z  */
    DSK_SLOT_1 = 4,         /* s1; s2 ... s6 follow */
    DSK_VARIANCE = 10,      /* v  */
    DSK_INPUT_COUNT = 11,   /* the number of tensors */
    DSK_PREDICTION = 11,    /* p: computed, without a tensor */
    DSK_TERM_COUNT = 12,    /* the number of coefficients of an output */
} dsk_input;

/* Sizes of arrays. */
enum {
    DSK_PREDICTION_INPUT_COUNT = 4, /* p is a combination of x, e, e2 and z */
    DSK_OUTPUT_COUNT = 3,           /* the most outputs of a row */
};

/* T, the clamp of the prediction. */
typedef enum dsk_clamp {
    DSK_CLAMP_NONE = 0,
    DSK_CLAMP_RANGE = 1,     /* p <- min(max(p, -r), r) with r = `dsk_row.clamp_range` */
    DSK_CLAMP_THRESHOLD = 2, /* p <- min(max(p, -s), s) / s with s = `dsk_item.threshold`; see dsk_find_thresholds */
} dsk_clamp;

/* f, the factor of each element of the noise. */
typedef enum dsk_noise_factor {
    DSK_NOISE_FACTOR_NONE = 0,        /* 1 */
    DSK_NOISE_FACTOR_ROOT = 1,        /* the root of max(v, 0) */
    DSK_NOISE_FACTOR_EXPONENTIAL = 2, /* exp(a + b v) with a = `dsk_row.noise_offset` and b = `dsk_row.noise_slope` */
} dsk_noise_factor;

/* The scalars of one step. */
typedef struct dsk_row {
    double prediction[DSK_PREDICTION_INPUT_COUNT];    /* p's coefficients, by dsk_input */
    double outputs[DSK_OUTPUT_COUNT][DSK_TERM_COUNT]; /* each output's, by dsk_input; the last one is p's */
    dsk_clamp clamp;                                  /* T */
    double clamp_range;                               /* > 0; only read for DSK_CLAMP_RANGE; rounded to p's type, like thresholds */
    double threshold_ratio;                           /* in [0, 1]; like threshold_maximum, only read for DSK_CLAMP_THRESHOLD */
    double threshold_maximum;                         /* > 0 */
    dsk_noise_factor noise_factor;                    /* DSK_NOISE_FACTOR_NONE where p reads noise */
    double noise_offset;                              /* a: finite; like noise_slope, only read for DSK_NOISE_FACTOR_EXPONENTIAL */
    double noise_slope;                               /* b: finite */
} dsk_row;

/*
 * The work of a step that writes some of a row's outputs: sums first, then at most one copy of an input or of p. A part of
 * dsk_prepared_row. Its members are for the library alone.
 */
typedef struct dsk_form {
    uint16_t read_inputs; /* all inputs that are read: bit i for dsk_input i */
    uint8_t wanted;       /* the outputs: bit k for output k */
    uint8_t n_outputs, outputs[DSK_OUTPUT_COUNT];
    uint8_t n_sums, n_inputs, inputs[DSK_INPUT_COUNT]; /* the inputs of all sums, in the order of summation */
    uint8_t copied;                                    /* the source of the copy, if there is one: a dsk_input */
    uint8_t loop;                                      /* the loop that runs it: see DSK_LOOPS (kernels.h); 0: the general one */
    uint8_t n_first, n_last; /* the inputs of the last sum, in a special loop; the other sums read all inputs */
    bool uses_prediction;
    bool scales_noise; /* the noise has a factor, and a sum reads it */
} dsk_form;

/*
 * A row prepared for steps: all that a step needs besides addresses and types. It has no pointers: it may be copied, and any number
 * of threads may step with it at once. Its members are for the library alone, and later versions may have others.
 */
typedef struct dsk_prepared_row {
    dsk_row row; /* coefficients for items whose widest type is float64 */
    struct {
        double prediction[DSK_PREDICTION_INPUT_COUNT], outputs[DSK_OUTPUT_COUNT][DSK_TERM_COUNT];
    } shortened; /* for float32 */
    struct {
        float prediction[DSK_PREDICTION_INPUT_COUNT], outputs[DSK_OUTPUT_COUNT][DSK_TERM_COUNT];
    } single;                                                                   /* for half types */
    uint16_t prediction_reads, output_reads[DSK_OUTPUT_COUNT];                  /* the terms: bit i for dsk_input i */
    uint8_t n_prediction_inputs, prediction_inputs[DSK_PREDICTION_INPUT_COUNT]; /* the terms of p as a list */
    dsk_form forms[2];                                                          /* without and with the last output */
} dsk_prepared_row;

/*
 * dsk_prepare_row prepares a row for any number of steps and writes it to `prepared`.
 *
 * Errors: DSK_NULL_POINTER, DSK_OUT_OF_RANGE (clamp, clamp_range, threshold_ratio, threshold_maximum, noise_factor, noise_offset,
 * noise_slope). On error nothing is written.
 */
dsk_status dsk_prepare_row(const dsk_row *row, dsk_prepared_row *prepared);

/*
 * One item of a step: a whole tensor, or one batch item if items have their own coefficients or thresholds.
 *
 * row           the scalars, prepared; items may share them.
 * inputs        [DSK_INPUT_COUNT] addresses of n_elements elements each; NULL is allowed if all coefficients of the tensor are
 *               zero, for v also if no output needs a factor.
 * input_types   [DSK_INPUT_COUNT] their element types; only read for tensors that are read.
 * outputs       [DSK_OUTPUT_COUNT] addresses of n_elements elements each; NULL skips the output.
 *               An output may have the same address as an input with elements of the same size (in place). It may not overlap an
 *               input in any other way, nor another output. Inputs that aren't read don't count.
 *               An item's outputs may not overlap the inputs or outputs of another item of the call; that isn't checked.
 * output_types  [DSK_OUTPUT_COUNT] the outputs' element types; only read for outputs that aren't NULL.
 * n_elements    the number of elements of each tensor; 0 is allowed.
 * threshold     s, > 0 or NaN; only read for DSK_CLAMP_THRESHOLD; dsk_find_thresholds writes it.
 * workspace     for DSK_CLAMP_THRESHOLD: scratch memory of dsk_find_thresholds, dsk_threshold_workspace_size(n_elements) bytes with
 *               a double's alignment. Each item needs its own. Its contents need not be kept.
 */
typedef struct dsk_item {
    const dsk_prepared_row *row;
    const void *inputs[DSK_INPUT_COUNT];
    dsk_element_type input_types[DSK_INPUT_COUNT];
    void *outputs[DSK_OUTPUT_COUNT];
    dsk_element_type output_types[DSK_OUTPUT_COUNT];
    size_t n_elements;
    double threshold;
    void *workspace;
} dsk_item;

/*
 * dsk_step executes items: it reads each item's inputs once and writes its outputs once. With the coefficients of the item's row,
 *
 *     p           = T( sum of prediction[i] * inputs[i] )
 *     outputs[k]  = sum of outputs[k][i] * inputs[i] + outputs[k][DSK_PREDICTION] * p
 *
 * and f z in the place of z if the row has a noise factor.
 *
 * items        [n_items]
 * max_threads  0: as many as the OpenMP runtime would use; 1: stay on the caller's thread; n: at most n.
 *
 * Errors: DSK_NULL_POINTER, DSK_UNKNOWN_TYPE, DSK_MISSING_INPUT, DSK_MISALIGNED, DSK_OVERLAP, DSK_TOO_LARGE,
 * DSK_OUT_OF_RANGE (threshold). On error nothing is written.
 */
dsk_status dsk_step(const dsk_item *items, size_t n_items, unsigned max_threads);

/*
 * dsk_run is dsk_step for callers who have checked the items: it checks nothing and cannot fail. The behaviour is undefined for
 * items that dsk_step would refuse.
 */
void dsk_run(const dsk_item *items, size_t n_items, unsigned max_threads);

/*
 * dsk_find_thresholds computes the dynamic threshold of the prediction of every item with DSK_CLAMP_THRESHOLD and stores it in
 * `items[i].threshold`. Other items are skipped.
 *
 *     s = min( max( quantile(|p|, ratio), 1 ), maximum )
 *
 * A dsk_step with the same items then clamps p to [-s, s] and divides it by s (Saharia et al. 2022, arXiv:2205.11487, section 2.3).
 * A maximum below 1 overrides the 1, like clamp in torch. The quantile interpolates linearly between order statistics: with the
 * sorted values v[0 ... m-1], r = ratio * (m - 1) and k = floor(r), it is v[k] + (r - k) (v[k+1] - v[k]). The order statistics v[k]
 * and v[k+1] are exact. The interpolation is computed in float64 and rounded to p's type. If that type is float32, `ratio` is
 * rounded to float32 first, as in torch; half types count as float32 here, in torch too. The type of p depends on all tensors that
 * dsk_step will read and write, so pass the same item to both.
 * A NaN anywhere in an item makes its threshold NaN, and so its whole output NaN. So does a quantile between two infinities, unless
 * maximum <= 1.
 *
 * Reads the tensors of p once, and a sample of them before. If the sample is unrepresentative, which takes adversarial data, they
 * are read again, at most 70 times for each of v[k] and v[k+1]. An empty item gets min(1, maximum). Uses no memory beyond the
 * workspaces and 64 KiB of stack per thread.
 *
 * Errors: as dsk_step; DSK_NULL_POINTER and DSK_MISALIGNED for the workspace. On error no threshold is written.
 */
dsk_status dsk_find_thresholds(dsk_item *items, size_t n_items, unsigned max_threads);

/* The bytes of workspace that the threshold of an item of n elements needs: 8 n up to 512 elements, above that at most
 * 8 (max(n / 8, min(n, 2048)) + min(max(n / 64, 128), 8192)). */
size_t dsk_threshold_workspace_size(size_t n_elements);

/*
 * dsk_add_noise computes out[i] = signal_rates[i] * sample[i] + noise_rates[i] * noise[i] for every batch item i.
 *
 * sample, noise, out         [n_items, n_elements_per_item], all of type `type`; out may be sample or noise
 * signal_rates, noise_rates  [n_items]
 *
 * Errors: as dsk_step.
 */
dsk_status dsk_add_noise(dsk_element_type type, const void *sample, const void *noise, const double *signal_rates,
                         const double *noise_rates, size_t n_items, size_t n_elements_per_item, void *out, unsigned max_threads);

/* dsk_scale computes out = factor * sample for n_elements elements; out may be sample. Errors: as dsk_step. */
dsk_status dsk_scale(dsk_element_type type, const void *sample, double factor, size_t n_elements, void *out, unsigned max_threads);

/* Means, population variances (divided by the number of elements) and the covariance of two tensors. */
typedef struct dsk_moments {
    double mean_a;     /* of the first tensor */
    double mean_b;     /* of the second */
    double variance_a; /* of the first tensor, divided by the number of elements */
    double variance_b; /* of the second */
    double covariance; /* of the pair, divided likewise */
} dsk_moments;

/*
 * dsk_find_moments computes the moments of pairs of tensors, in float64 and in one pass. Rescaled guidance needs them (Lin et al.
 * 2023, arXiv:2305.08891, equation 15).
 *
 * a, b     [n_items] addresses of n_elements_per_item elements of type `type` each; may be equal
 * moments  [n_items]; NaN for items without elements
 *
 * For n elements,
 *
 *     mean_a      = sum of a[i] / n
 *     variance_a  = sum of (a[i] - mean_a)^2 / n
 *     covariance  = sum of (a[i] - mean_a) (b[i] - mean_b) / n
 *
 * Deviations are taken from each item's first elements. Partial sums are combined by the formulas of Chan, Golub and LeVeque (1983,
 * The American Statistician 37, 242-247), in an order that depends only on the number of elements.
 *
 * Errors: DSK_NULL_POINTER, DSK_UNKNOWN_TYPE, DSK_MISALIGNED, DSK_TOO_LARGE. On error nothing is written.
 */
dsk_status dsk_find_moments(dsk_element_type type, const void *const *a, const void *const *b, size_t n_items,
                            size_t n_elements_per_item, dsk_moments *moments, unsigned max_threads);

/*
 * dsk_guide_row makes the row of a guided step: it replaces the model output e by
 *
 *     e = factor * ( scale * e_c + (1 - scale) * e_u )
 *
 * with the conditional output e_c as DSK_MODEL_OUTPUT and the unconditional output e_u as DSK_MODEL_OUTPUT_2. Guidance thus costs
 * one more tensor to read (Ho and Salimans 2022, arXiv:2207.12598, equation 6, with scale = 1 + w). Rescaled guidance has a factor
 * per item (see dsk_find_moments); plain guidance has factor 1.
 *
 * row     a row that doesn't use DSK_MODEL_OUTPUT_2
 * guided  may be row
 */
void dsk_guide_row(const dsk_prepared_row *row, double scale, double factor, dsk_prepared_row *guided);

/*
 * Sizes at which dsk_step changes its strategy; results don't depend on them. They were measured with this repository's benchmarks.
 *
 * parallel_elements  a call with fewer elements stays on the caller's thread, because starting threads would take longer
 * streaming_bytes    a call that reads and writes at least this many bytes bypasses the caches for outputs that aren't inputs
 */
typedef struct dsk_limits {
    size_t parallel_elements;
    size_t streaming_bytes;
} dsk_limits;

/* The sizes that this build has. */
dsk_limits dsk_get_limits(void);

/*
 * The OpenMP runtime that provides the threads, as a sentence; never NULL. It is chosen once, at the first call that needs it:
 *
 *   1. compiled with -fopenmp: the compiler's own;
 *   2. the runtime already in the process (GNU's, LLVM's and Intel's all export the entry GOMP_parallel);
 *   3. libomp, else libgomp, loaded from the system;
 *   4. none: every call stays on the caller's thread.
 *
 * A second runtime in a process competes with the first for the cores, hence 2 before 3.
 */
const char *dsk_runtime_description(void);

/*
 * After a fork, the child's calls stay on the caller's thread: the threads of most runtimes don't survive the fork, and some
 * runtimes would wait for them. (A child that loads the library after the fork, or executes another program, uses threads as
 * usual.)
 */

/* The number of threads that a call with max_threads 0 from the calling thread may use. */
unsigned dsk_default_thread_count(void);

/*
 * The default floating-point environment: rounding to nearest even, no traps, no flushing of subnormal numbers. All functions here
 * work in this environment on every thread and restore the caller's. (If the caller's already was the default, exception flags may
 * have been raised; otherwise the flags are restored too.) These two functions are for callers that compute coefficients.
 *
 *     dsk_environment host = dsk_begin_default_environment();
 *     ...
 *     dsk_end_default_environment(host);
 *
 * On processors other than x86-64 and aarch64 they do nothing; the caller is responsible for the environment.
 */
typedef struct dsk_environment {
    uint64_t changed; /* 0: nothing was changed */
} dsk_environment;

/* Switches the calling thread to the default environment, and returns what dsk_end_default_environment needs. */
dsk_environment dsk_begin_default_environment(void);

/* Restores the calling thread's environment. */
void dsk_end_default_environment(dsk_environment host);

/* The version of this header, as semantic versioning numbers it. */
#define DSK_VERSION_MAJOR 0
#define DSK_VERSION_MINOR 1
#define DSK_VERSION_PATCH 0

/* The version of the compiled library: major * 10000 + minor * 100 + patch. */
unsigned dsk_version(void);

/*
 * Noise: standard normal numbers that match torch's and NumPy's for the same seeds.
 *
 * A generator is a struct that the caller owns. Its fields are the whole state: copying it saves the state, assigning it restores
 * the state. A generator may be used by one thread at a time; different ones may be used at once. Nothing is allocated. The results
 * have the same bits on every instruction set and for any number of threads.
 */

/* The size of a Mersenne twister. */
enum {
    DSK_MT19937_WORD_COUNT = 624, /* words of 32 bits */
};

/* MT19937, the Mersenne twister (Matsumoto & Nishimura 1998, doi:10.1145/272991.272995). */
typedef struct dsk_mt19937 {
    uint32_t words[DSK_MT19937_WORD_COUNT]; /* the sequence before tempering */
    uint32_t next;                          /* the number of words drawn; DSK_MT19937_WORD_COUNT: all */
} dsk_mt19937;

/* dsk_mt19937_seed starts the sequence like the authors' init_genrand (2002), which torch and NumPy's legacy seeding use. */
void dsk_mt19937_seed(dsk_mt19937 *generator, uint32_t seed);

/* The next 32 bits of the sequence. */
uint32_t dsk_mt19937_next(dsk_mt19937 *generator);

/* A twister and the spare normal of its last pair: torch's CPU generator, and NumPy's RandomState. */
typedef struct dsk_normal_generator {
    dsk_mt19937 words;  /* the twister */
    uint32_t has_spare; /* 0 or 1 */
    double spare;       /* the second normal of the last pair, if has_spare is 1 */
} dsk_normal_generator;

/* Seeds the twister as dsk_mt19937_seed does, and drops the spare. */
void dsk_normal_generator_seed(dsk_normal_generator *generator, uint32_t seed);

/*
 * dsk_torch_normal_float32 writes the numbers of torch.randn(n) on an x86-64 CPU with AVX2, and advances the generator as torch
 * does. torch.manual_seed(s) is dsk_normal_generator_seed with the low 32 bits of s.
 *
 * n < 16   Box and Muller's transform (1958, doi:10.1214/aoms/1177706645) in float64, rounded to float32:
 *              r = sqrt(-2 log1p(-v)),  normals r cos(2 pi u), then r sin(2 pi u)
 *          u and v are the low 53 bits of two draws each, as fractions. The second normal is kept for the next call with n < 16.
 * n >= 16  The same transform in float32, from the low 24 bits of one draw each, in blocks of 16. For i = 0 ... 7 of a block,
 *              r = sqrt(-2 ln(1 - u[i])),  out[i] = r cos(2 pi u[8 + i]),  out[8 + i] = r sin(2 pi u[8 + i])
 *          ln, cos and sin are Cephes' polynomials (Moshier 1989) in the order of sse_mathfun and avx_mathfun (Pommier 2007,
 *          Garberoglio 2012). If n is not a multiple of 16, the last 16 elements are computed again from 16 further draws.
 *
 * out          [n], in about (-5.8, 5.8); (-8.6, 8.6) for n < 16
 * max_threads  as for dsk_step: one thread makes the draws, the transform is shared
 *
 * Exactness: for n >= 16, every bit matches torch 2.15; all 2^24 values of u[i] and of u[8 + i] have been compared. For n < 16 the
 * bits depend on the system's float64 log1p, sin and cos, as torch's do: an error of one unit there changes about one result in
 * 2^28 by one unit of float32. For n >= 16, plain torch builds (ATEN_CPU_CAPABILITY=default, other processors) give other last
 * bits.
 *
 * Errors: DSK_NULL_POINTER, DSK_MISALIGNED, DSK_TOO_LARGE. On error nothing is written or drawn.
 */
dsk_status dsk_torch_normal_float32(dsk_normal_generator *generator, size_t n, float *out, unsigned max_threads);

/*
 * dsk_torch_normal_float64 writes the numbers of torch.randn(n, dtype=torch.float64). It works like dsk_torch_normal_float32, but
 * in float64 throughout, with 53 bits of two draws per uniform and the system's log, sin and cos.
 *
 * Errors: as dsk_torch_normal_float32.
 */
dsk_status dsk_torch_normal_float64(dsk_normal_generator *generator, size_t n, double *out, unsigned max_threads);

/*
 * dsk_numpy_normal_float64 writes the numbers of numpy.random.RandomState(seed).standard_normal(n) on x86-64, and advances the
 * generator as NumPy does. It uses the polar method (Marsaglia & Bray 1964, doi:10.1137/1006063). x and y are uniform in [-1, 1)
 * and drawn again until s = x^2 + y^2 satisfies 0 < s < 1. Then
 *
 *     normals y f, then x f,   f = sqrt(-2 ln s / s)
 *
 * The second normal is kept for the next call. Each uniform takes 27 and 26 bits of two draws. The bits depend on the system's
 * float64 log, as NumPy's do. The work can't be shared among threads, because the number of draws per normal varies.
 *
 * out  [n], in about (-12.1, 12.1)
 *
 * Errors: as dsk_torch_normal_float32.
 */
dsk_status dsk_numpy_normal_float64(dsk_normal_generator *generator, size_t n, double *out);

/* dsk_numpy_normal_float32 rounds the normals of dsk_numpy_normal_float64 to float32, like `.astype(numpy.float32)`. Errors: as
 * dsk_numpy_normal_float64. */
dsk_status dsk_numpy_normal_float32(dsk_normal_generator *generator, size_t n, float *out);

/*
 * dsk_philox4x32_10 computes one block of the counter-based generator Philox 4x32-10 (Salmon, Moraes, Dror & Shaw 2011,
 * doi:10.1145/2063384.2063405), least significant words first. `out` may be `counter`. Each of ten rounds multiplies two words c of the
 * counter by constants M to 64 bits, whose halves are high and low, and adds a constant to each word k of the key:
 *
 *     c[0], c[1], c[2], c[3]  <-  high(M1 c[2]) ^ c[1] ^ k[0], low(M1 c[2]), high(M0 c[0]) ^ c[3] ^ k[1], low(M0 c[0])
 */
void dsk_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* torch's CUDA generator, and the device property that its normals depend on. */
typedef struct dsk_torch_cuda_generator {
    uint64_t seed;       /* torch.cuda.manual_seed */
    uint64_t offset;     /* Generator.get_offset(); 0 after seeding; a multiple of 4 */
    uint32_t max_blocks; /* multiprocessors * (greatest number of threads per multiprocessor / 256) */
} dsk_torch_cuda_generator;

/* The most elements of a call (2 GiB of float32). torch splits larger tensors into several launches. */
#define DSK_TORCH_CUDA_MAX_ELEMENTS ((size_t)1 << 29)

/*
 * dsk_torch_cuda_normal_float32 writes the numbers of torch.randn(n, device="cuda"), to within the device's accuracy, and advances
 * the offset as torch does: by 4 for each started group of 4 T elements. The launch has T = 256 min(ceil(n / 256), max_blocks)
 * threads. Thread t makes the elements t, t + T, t + 2 T and t + 3 T of each group from the words w of Philox((offset / 4, t),
 * seed); the counter increases from group to group. Two words make two normals (cuRAND's Box-Muller transform): w[0] and w[1] the
 * first two, w[2] and w[3] the other two. With a pair's words x and y,
 *
 *     u = 2^-32 x + 2^-33,  v = 2 pi (2^-32 y + 2^-33),  r = sqrt(-2 ln u),  normals r sin v, then r cos v
 *
 * with x, y, u and v rounded to float32. All devices with at least n threads (256 max_blocks) therefore give the same tensor;
 * larger tensors match only on devices with the same max_blocks.
 *
 * out          [n], in about (-6.8, 6.8)
 * max_threads  as for dsk_step: all the work is shared
 *
 * Exactness: the words are exact. The normals are within 0.501 units in the last place of the formula's value for the rounded u and
 * v. A device computes ln, the root and the products in float32 and takes sin and cos from its table units, which have an absolute
 * error. Expect its normals within 2^-20 r of these, at most 6.5e-6: many units in the last place if sin or cos is small. No device
 * was available: all 237 published numbers that were found lie within that bound (Tests/Goldens/noise.json), and those printed with
 * all digits within 0.57 of it.
 *
 * Errors: DSK_NULL_POINTER, DSK_MISALIGNED, DSK_OUT_OF_RANGE (max_blocks 0, offset not a multiple of 4), DSK_TOO_LARGE (n above
 * DSK_TORCH_CUDA_MAX_ELEMENTS). On error nothing is written or drawn.
 */
dsk_status dsk_torch_cuda_normal_float32(dsk_torch_cuda_generator *generator, size_t n, float *out, unsigned max_threads);

#ifdef __cplusplus
}
#endif

#endif
