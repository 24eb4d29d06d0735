/* SPDX-License-Identifier: Apache-2.0 */

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
 * Types       Every tensor has an element type of its own, also within an item: engines run models in float16 or bfloat16 and
 *             keep the sample in float32. Conversions happen in registers and cost no pass.
 * Arithmetic  The terms of an output are summed in the order of the `dsk_input` indices, p last, and the sum is rounded once, to
 *             nearest and even, to the output's type. Elements are widened for it, which is exact, and how far depends on the
 *             widest type among the tensors that the item reads and writes:
 *
 *                 float16, bfloat16  sums and p in float32; coefficients are rounded to it, products before they are added
 *                 float32            sums in float64, p in float32; coefficients are rounded to 29 bits, and products exact
 *                 float64            sums and p in float64; coefficients are used as they are, products rounded
 *
 *             p is rounded to its type before and after T.
 *             A coefficient that is zero means that the term is absent: its tensor isn't read, and an infinity in it doesn't
 *             turn into a NaN. An output that is one input of its own type times 1 is a copy of its bits.
 *             The result has the same bits on every instruction set, for any number of threads, in place or not, for
 *             coefficients that are 0 or from 2^-800 to 2^800 in magnitude; of a NaN only that it is one is the same. Items of
 *             half types alone need coefficients in the range of float32, from 2^-126 to 2^127, to be of use.
 *             Subnormal numbers are kept, and neither rounding mode nor traps of the calling thread count: see
 *             `dsk_begin_default_environment`.
 * Error       As long as nothing overflows, and no sum in float32 is subnormal, an output that doesn't use p is off by at most
 *
 *                 max( u |out|, least / 2 ) + e sum |coefficient * input|
 *
 *             with e = (t + 1) 2^-24 for t terms where the widest type is a half, 2^-29 where it is float32, and t 2^-53 where
 *             it is float64, to first order; u and the least positive number are those of the output's type:
 *
 *                 float16    u = 2^-11   least = 2^-24   greatest = 65504           what is 65520 or more becomes infinity
 *                 bfloat16   u = 2^-8    least = 2^-133  greatest = (2 - 2^-7) 2^127
 *                 float32    u = 2^-24   least = 2^-149  greatest = (2 - 2^-23) 2^127
 *                 float64    u = 2^-53   least = 2^-1074
 *
 *             See Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1.
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
    DSK_NULL_POINTER = 1,  /* an array or a row that the call needs is NULL */
    DSK_UNKNOWN_TYPE = 2,  /* an element type is none of `dsk_element_type` */
    DSK_MISSING_INPUT = 3, /* a coefficient is not zero but its tensor is NULL */
    DSK_MISALIGNED = 4,    /* a tensor's address is not a multiple of its element size */
    DSK_OVERLAP = 5,       /* an output overlaps an input of its item otherwise than in place, or another output of it */
    DSK_TOO_LARGE = 6,     /* the elements of the call don't fit the address space */
    DSK_OUT_OF_RANGE = 7,  /* a ratio, a clamp or a limit is outside its stated range */
} dsk_status;

/* A sentence in English that says what the status means; never NULL. */
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

/* The tensors a step may read, as indices of `dsk_item.inputs` and of coefficients. */
typedef enum dsk_input {
    DSK_SAMPLE = 0,         /* x  */
    DSK_MODEL_OUTPUT = 1,   /* e  */
    DSK_MODEL_OUTPUT_2 = 2, /* e2 */
    DSK_NOISE = 3,          /* z  */
    DSK_SLOT_1 = 4,         /* s1; s2 ... s6 follow */
    DSK_INPUT_COUNT = 10,
    DSK_PREDICTION = 10, /* p, which is computed and has no tensor */
    DSK_TERM_COUNT = 11,
} dsk_input;

enum {
    DSK_PREDICTION_INPUT_COUNT = 4, /* p is a combination of x, e, e2 and z */
    DSK_OUTPUT_COUNT = 3,
};

/* What T does to the prediction. */
typedef enum dsk_clamp {
    DSK_CLAMP_NONE = 0,
    DSK_CLAMP_RANGE = 1,     /* p <- min(max(p, -r), r) with r = `dsk_row.clamp_range` */
    DSK_CLAMP_THRESHOLD = 2, /* p <- min(max(p, -s), s) / s with s = `dsk_item.threshold`; see dsk_find_thresholds */
} dsk_clamp;

/* The scalars of one step. */
typedef struct dsk_row {
    double prediction[DSK_PREDICTION_INPUT_COUNT];
    double outputs[DSK_OUTPUT_COUNT][DSK_TERM_COUNT];
    dsk_clamp clamp;
    double clamp_range;       /* > 0; read for DSK_CLAMP_RANGE only, and rounded to p's type, as thresholds are */
    double threshold_ratio;   /* in [0, 1]; this and the next are read for DSK_CLAMP_THRESHOLD only, by dsk_find_thresholds */
    double threshold_maximum; /* > 0 */
} dsk_row;

/*
 * One item of a step: a whole tensor, or one batch item where items have coefficients or thresholds of their own.
 *
 * inputs        [DSK_INPUT_COUNT] addresses of n_elements elements each; NULL where no coefficient asks for the tensor.
 * input_types   [DSK_INPUT_COUNT] their element types; not read where the tensor isn't.
 * outputs       [DSK_OUTPUT_COUNT] addresses of n_elements elements each; NULL: this output isn't wanted.
 *               An output may be the very address of an input with elements of the same size (in place); in no other way may it
 *               overlap an input that is read, nor another output.
 *               Outputs of one item may not overlap inputs or outputs of another item of the same call; that isn't checked.
 * output_types  [DSK_OUTPUT_COUNT] as input_types.
 * threshold     s, > 0 or NaN; read for DSK_CLAMP_THRESHOLD only, for which dsk_find_thresholds writes it.
 * workspace     for DSK_CLAMP_THRESHOLD: memory that dsk_find_thresholds may write to, dsk_threshold_workspace_size(n_elements)
 *               bytes at an address that suits a double. Items have one of their own each. Nothing in it needs to be kept.
 */
typedef struct dsk_item {
    const dsk_row *row;
    const void *inputs[DSK_INPUT_COUNT];
    dsk_element_type input_types[DSK_INPUT_COUNT];
    void *outputs[DSK_OUTPUT_COUNT];
    dsk_element_type output_types[DSK_OUTPUT_COUNT];
    size_t n_elements;
    double threshold;
    void *workspace;
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
dsk_status dsk_step(const dsk_item *items, size_t n_items, unsigned max_threads);

/*
 * dsk_find_thresholds computes the dynamic threshold of the prediction of every item with DSK_CLAMP_THRESHOLD and stores it in
 * `items[i].threshold`; other items it passes over.
 *
 *     s = min( max( quantile(|p|, ratio), 1 ), maximum )
 *
 * so that a following dsk_step with the same items clamps p to [-s, s] and divides by s (Saharia et al. 2022, arXiv:2205.11487,
 * section 2.3; maximum < 1 wins over the 1, as clamping does in torch). The quantile interpolates linearly between order
 * statistics: with the sorted values v[0 ... m-1], r = ratio * (m - 1), k = floor(r), it is v[k] + (r - k) (v[k+1] - v[k]). It is
 * exact: v[k] and v[k+1] are selected, the interpolation is done in float64 and rounded to p's type. Where that is float32 `ratio`
 * is rounded to it first, as torch does; half types are float32 for this, in torch and here. The type of p depends on all tensors
 * that dsk_step will read and write, so hand over the item that it will get.
 * A NaN anywhere in an item makes that item's threshold NaN, and so the whole item NaN; so does a quantile between two
 * infinities, unless maximum <= 1.
 *
 * Reads the tensors of p once, and a sample of them before; again where the sample misleads, which takes an adversary, and then
 * not more than 70 times for each of v[k] and v[k+1]. An empty item gets min(1, maximum). Needs no memory beyond the workspaces and 20 KiB of stack a thread.
 * Errors: as dsk_step; DSK_OUT_OF_RANGE for ratio and maximum; DSK_NULL_POINTER and DSK_MISALIGNED for the workspace. On error no
 * threshold is written.
 */
dsk_status dsk_find_thresholds(dsk_item *items, size_t n_items, unsigned max_threads);

/* The bytes of workspace that the threshold of an item with so many elements takes: 8 for each element of up to 512, for larger items
 * at least 4,096 and about 1.25 for each element. */
size_t dsk_threshold_workspace_size(size_t n_elements);

/*
 * dsk_add_noise computes out[i] = signal_rates[i] * sample[i] + noise_rates[i] * noise[i] for every batch item i.
 *
 * sample, noise, out         [n_items, n_elements_per_item] of the one type; out may be sample or noise
 * signal_rates, noise_rates  [n_items]
 */
dsk_status dsk_add_noise(dsk_element_type type, const void *sample, const void *noise, const double *signal_rates,
                         const double *noise_rates, size_t n_items, size_t n_elements_per_item, void *out, unsigned max_threads);

/* dsk_scale computes out = factor * sample for n_elements elements; out may be sample. */
dsk_status dsk_scale(dsk_element_type type, const void *sample, double factor, size_t n_elements, void *out, unsigned max_threads);

/* Means, variances (of the population: divided by the number of elements) and the covariance of two tensors. */
typedef struct dsk_moments {
    double mean_a, mean_b;
    double variance_a, variance_b;
    double covariance;
} dsk_moments;

/*
 * dsk_find_moments computes the moments of pairs of tensors, in float64, in one pass. Rescaled guidance needs them (Lin et al. 2023,
 * arXiv:2305.08891, equation 15).
 *
 * a, b     [n_items] addresses of n_elements_per_item elements of the one type each; may be the same
 * moments  [n_items]; NaN for items of no elements
 *
 * Deviations are taken from the item's first elements, and partial sums are combined as Chan, Golub and LeVeque (1983, The
 * American Statistician 37, 242-247) do, in an order that depends on the number of elements alone.
 */
dsk_status dsk_find_moments(dsk_element_type type, const void *const *a, const void *const *b, size_t n_items,
                            size_t n_elements_per_item, dsk_moments *moments, unsigned max_threads);

/*
 * dsk_guide_row makes the row of a guided step from a row: where that has the model output e, the other has
 *
 *     e = factor * ( scale * e_c + (1 - scale) * e_u )
 *
 * with the conditional output e_c as DSK_MODEL_OUTPUT and the unconditional one e_u as DSK_MODEL_OUTPUT_2, so that guidance costs
 * the reading of one more tensor (Ho and Salimans 2022, arXiv:2207.12598, equation 6, with scale = 1 + w). Rescaled guidance has a
 * factor for each item (see dsk_find_moments); else it is 1.
 *
 * row     without DSK_MODEL_OUTPUT_2
 * guided  may be row
 */
void dsk_guide_row(const dsk_row *row, double scale, double factor, dsk_row *guided);

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

/*
 * After a fork the child's calls stay on the caller's thread: most runtimes' threads don't live on in it, and some wait for them.
 * (A child that loads the library after the fork, or executes another program, has its threads.)
 */

/* The number of threads that a call with max_threads 0 may use from the calling thread. */
unsigned dsk_default_thread_count(void);

/*
 * The floating-point environment: rounding to nearest and even, no traps, no flushing of subnormal numbers. All functions here
 * work in this one, on every thread, and leave the caller's as it was (where it is this one already, flags for what happened may
 * have been raised; else they are the caller's, too). These two are for callers who compute coefficients.
 *
 *     dsk_environment host = dsk_begin_default_environment();
 *     ...
 *     dsk_end_default_environment(host);
 *
 * On processors other than x86-64 and aarch64 they do nothing, and the environment is the caller's affair.
 */
typedef struct dsk_environment {
    uint64_t changed; /* 0: nothing had to be changed */
} dsk_environment;

dsk_environment dsk_begin_default_environment(void);
void dsk_end_default_environment(dsk_environment host);

#define DSK_VERSION_MAJOR 0
#define DSK_VERSION_MINOR 1
#define DSK_VERSION_PATCH 0

/* The version of the compiled library: major * 10000 + minor * 100 + patch. */
unsigned dsk_version(void);

/*
 * Noise: standard normal numbers that agree, seed by seed, with those of torch and of NumPy.
 *
 * A generator is a struct of the caller's; its fields are the whole state, so copying it saves it and assigning it restores it.
 * One generator may be used by one thread at a time, different ones at once. Nothing is allocated. The results have the same
 * bits on every instruction set and for any number of threads.
 */

enum { DSK_MT19937_WORD_COUNT = 624 };

/* MT19937, the Mersenne twister (Matsumoto & Nishimura 1998, doi:10.1145/272991.272995). */
typedef struct dsk_mt19937 {
    uint32_t words[DSK_MT19937_WORD_COUNT]; /* of the sequence, before tempering */
    uint32_t next;                          /* how many of them have been drawn; DSK_MT19937_WORD_COUNT: all */
} dsk_mt19937;

/* dsk_mt19937_seed starts the sequence as the authors' init_genrand does (2002); torch's and NumPy's legacy seeds are this. */
void dsk_mt19937_seed(dsk_mt19937 *generator, uint32_t seed);

/* The next 32 bits of the sequence. */
uint32_t dsk_mt19937_next(dsk_mt19937 *generator);

/* A twister with the normal that is left over from the last pair: torch's CPU generator, and NumPy's RandomState. */
typedef struct dsk_normal_generator {
    dsk_mt19937 words;
    uint32_t has_spare; /* 0 or 1 */
    double spare;
} dsk_normal_generator;

void dsk_normal_generator_seed(dsk_normal_generator *generator, uint32_t seed);

/*
 * dsk_torch_normal_float32 writes what torch.randn(n) gives on a CPU of the x86-64 family with AVX2, and moves the generator as
 * torch does. torch.manual_seed(s) is dsk_normal_generator_seed with the low 32 bits of s.
 *
 * n < 16   Box and Muller's transform (1958, doi:10.1214/aoms/1177706645) in float64, rounded to float32:
 *              r = sqrt(-2 log1p(-v)),  normals r cos(2 pi u), then r sin(2 pi u)
 *          with u and v the low 53 bits of two draws each, as fractions. The second normal is kept for the next call with n < 16.
 * n >= 16  The same transform in float32, from the low 24 bits of one draw each, in blocks of 16: with i = 0 ... 7 of a block,
 *              r = sqrt(-2 ln(1 - u[i])),  out[i] = r cos(2 pi u[8 + i]),  out[8 + i] = r sin(2 pi u[8 + i])
 *          where ln, cos and sin are Cephes' polynomials (Moshier 1989) as sse_mathfun and avx_mathfun (Pommier 2007,
 *          Garberoglio 2012) order them. Where n is no multiple of 16, the last 16 elements are made anew from 16 further draws.
 *
 * out          [n], in about (-5.8, 5.8); (-8.6, 8.6) for n < 16
 * max_threads  as for dsk_step: the draws come from one thread, the transform is shared
 *
 * Exact: no bit differs from torch 2.15 for n >= 16, where all 2^24 values of u[i] and of u[8 + i] have been compared. For n < 16
 * the bits depend on the system's log1p, sin and cos in float64, as torch's do; an error of a unit there changes one in some
 * 2^28 results by one unit of float32. Plain torch builds (ATEN_CPU_CAPABILITY=default, other processors) give other last bits
 * for n >= 16.
 *
 * Errors: DSK_NULL_POINTER, DSK_MISALIGNED, DSK_TOO_LARGE; then nothing has been written or drawn.
 */
dsk_status dsk_torch_normal_float32(dsk_normal_generator *generator, size_t n, float *out, unsigned max_threads);

/*
 * dsk_torch_normal_float64 is torch.randn(n, dtype=torch.float64): as dsk_torch_normal_float32, in float64 throughout, with 53
 * bits of two draws for each uniform and the system's log, sin and cos.
 */
dsk_status dsk_torch_normal_float64(dsk_normal_generator *generator, size_t n, double *out, unsigned max_threads);

/*
 * dsk_numpy_normal_float64 writes what numpy.random.RandomState(seed).standard_normal(n) gives on x86-64, and moves the generator
 * as NumPy does: the polar method (Marsaglia & Bray 1964, doi:10.1137/1006063). With x and y uniform in [-1, 1), drawn again
 * until 0 < s < 1 for s = x^2 + y^2,
 *
 *     normals y f, then x f,   f = sqrt(-2 ln s / s)
 *
 * The second one is kept for the next call. Each uniform takes 27 and 26 bits of two draws. The bits depend on the system's log in
 * float64, as NumPy's do. The work can't be shared: how many draws a normal takes isn't known before.
 *
 * out     [n], in about (-12.1, 12.1)
 * Errors  as dsk_torch_normal_float32
 */
dsk_status dsk_numpy_normal_float64(dsk_normal_generator *generator, size_t n, double *out);

/* dsk_numpy_normal_float32 rounds the same normals to float32, as `.astype(numpy.float32)` does. */
dsk_status dsk_numpy_normal_float32(dsk_normal_generator *generator, size_t n, float *out);

/*
 * dsk_philox4x32_10 computes one block of the counter-based generator Philox 4x32-10 (Salmon, Moraes, Dror & Shaw 2011,
 * doi:10.1145/2063384.2063405), least significant words first. `out` may be `counter`.
 */
void dsk_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* torch's CUDA generator, and the one property of the device that its normals depend on. */
typedef struct dsk_torch_cuda_generator {
    uint64_t seed;       /* torch.cuda.manual_seed */
    uint64_t offset;     /* Generator.get_offset(); 0 after seeding; a multiple of 4 */
    uint32_t max_blocks; /* multiprocessors * (greatest number of threads per multiprocessor / 256) */
} dsk_torch_cuda_generator;

/* Larger tensors torch cuts into several launches (2 GiB of float32). */
#define DSK_TORCH_CUDA_MAX_ELEMENTS ((size_t)1 << 29)

/*
 * dsk_torch_cuda_normal_float32 writes what torch.randn(n, device="cuda") gives, up to the accuracy of the device, and moves the
 * offset as torch does: by 4 for every 4 T elements or part of them, where the launch has T = 256 min(ceil(n / 256), max_blocks)
 * threads. Thread t makes the elements t, t + T, t + 2 T and t + 3 T of every 4 T from the words w of
 * Philox((offset / 4, t), seed), the counter increasing from one 4 T to the next. Two words make two normals (cuRAND's
 * Box-Muller transform), w[0] and w[1] the first two, w[2] and w[3] the others:
 *
 *     u = 2^-32 x + 2^-33,  v = 2 pi (2^-32 y + 2^-33),  r = sqrt(-2 ln u),  normals r sin v, then r cos v
 *
 * with x, y, u and v rounded to float32. So all devices with at least n threads (256 max_blocks) give the same tensor; larger
 * ones are the same on devices of the same max_blocks only.
 *
 * out          [n], in about (-6.8, 6.8)
 * max_threads  as for dsk_step: all the work is shared
 *
 * The words are exact. The normals are within 0.501 units in the last place of the formula's value for the rounded u and v. A
 * device computes ln, the root and the products in float32 and takes sin and cos from its table units, whose error is absolute:
 * expect its normals within 2^-20 r of these, which is at most 6.5e-6 and, where sin or cos is small, many units in the last
 * place. No device was at hand: all 237 published numbers that were found lie within that (Tests/Goldens/noise.json), those of
 * them that were printed with all digits within 0.57 of it.
 *
 * Errors: DSK_NULL_POINTER, DSK_MISALIGNED, DSK_OUT_OF_RANGE (max_blocks 0, offset no multiple of 4), DSK_TOO_LARGE (n above
 * DSK_TORCH_CUDA_MAX_ELEMENTS); then nothing has been written or drawn.
 */
dsk_status dsk_torch_cuda_normal_float32(dsk_torch_cuda_generator *generator, size_t n, float *out, unsigned max_threads);

#ifdef __cplusplus
}
#endif

#endif
