/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Runs Sources/DeviceKernels/device_kernels.h on an OpenCL device: batches with a request for every scheduler, each from another tick
 * on, until all have ended.
 *
 *     device_opencl FOLDER [quick]
 *
 * FOLDER has device_table.h and device_kernels.h. `quick` leaves out the large sizes.
 *
 * Every step is compared. Where the kernels promise the bits of ds_session_step, a session takes the same steps. Elsewhere the rows of the
 * device table are summed in float64, beside the kernels' error bounds. Prints a line for each combination of types and sums, and fails at
 * the first difference.
 */

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <device_table.h>
#include <diffusion_scheduling.h>

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(EXIT_FAILURE);
}

static void check(ds_status status) {
    if (status != DS_OK) fail("%s", ds_error_message());
}

#define CL(call) check_cl(call, #call)
static void check_cl(cl_int status, const char *call) {
    if (status != CL_SUCCESS) fail("OpenCL's status is %d after %s", status, call);
}

static void *allocate(size_t bytes) {
    void *memory = calloc(1, bytes ? bytes : 1);
    if (!memory) fail("no memory for %zu bytes", bytes);
    return memory;
}

/* ---- Elements */

static float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Element i of a tensor. */
static double element(ds_element_type type, const void *tensor, size_t i) {
    switch (type) {
    case DS_FLOAT64: return ((const double *)tensor)[i];
    case DS_FLOAT32: return ((const float *)tensor)[i];
    case DS_BFLOAT16: return float_of_bits((uint32_t)((const uint16_t *)tensor)[i] << 16);
    default: {
        const uint16_t bits = ((const uint16_t *)tensor)[i];
        const int exponent = bits >> 10 & 31, fraction = bits & 1023;
        const double magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                                 : exponent == 0 ? ldexp(fraction, -24)
                                                 : ldexp(1024 + fraction, exponent - 25);
        return bits >> 15 ? -magnitude : magnitude;
    }
    }
}

/* Sets element i to a value near a number below 60,000: the next one towards 0 in the half types. */
static void set_element(ds_element_type type, void *tensor, size_t i, double value) {
    const uint32_t bits = bits_of_float((float)value);
    switch (type) {
    case DS_FLOAT64: ((double *)tensor)[i] = value; break;
    case DS_FLOAT32: ((float *)tensor)[i] = (float)value; break;
    case DS_BFLOAT16: ((uint16_t *)tensor)[i] = (uint16_t)(bits >> 16); break;
    default: {
        const uint32_t magnitude = bits & 0x7FFFFFFF;
        const uint32_t half = magnitude < 0x38800000 ? 0 : (magnitude - (112u << 23)) >> 13; /* no subnormal numbers */
        ((uint16_t *)tensor)[i] = (uint16_t)(bits >> 16 & 0x8000) | (uint16_t)half;
    }
    }
}

/* The greatest relative and the greatest absolute error of rounding to a type. */
static double unit_roundoff(ds_element_type type) {
    return ldexp(1, type == DS_FLOAT64 ? -53 : type == DS_FLOAT32 ? -24 : type == DS_FLOAT16 ? -11 : -8);
}
static double least_error(ds_element_type type) { return type == DS_FLOAT16 ? ldexp(1, -25) : ldexp(1, -126); }
static double greatest(ds_element_type type) { return type == DS_FLOAT64 ? 1e300 : type == DS_FLOAT16 ? 65504 : 3e38; }

static uint64_t state = 1;
static double draw(void) {
    double sum = 0;
    for (int k = 0; k < 4; k++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        sum += (double)(state >> 11) * 0x1p-53 - 0.5;
    }
    return sum * 1.7320508075688772; /* variance 1 */
}

/* ---- The device */

static cl_context context;
static cl_command_queue queue;
static cl_device_id device;

static void open_device(void) {
    cl_platform_id platform;
    cl_uint count = 0;
    char name[256] = "", version[256] = "";
    if (clGetPlatformIDs(1, &platform, &count) != CL_SUCCESS || count == 0) fail("no OpenCL platform is installed");
    CL(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL));
    CL(clGetDeviceInfo(device, CL_DEVICE_NAME, sizeof name, name, NULL));
    CL(clGetDeviceInfo(device, CL_DEVICE_VERSION, sizeof version, version, NULL));
    printf("%s, %s\n", name, version);
    cl_int status;
    context = clCreateContext(NULL, 1, &device, NULL, NULL, &status);
    CL(status);
    queue = clCreateCommandQueue(context, device, 0, &status);
    CL(status);
}

static char *read_file(const char *folder, const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file) fail("%s can't be read", path);
    char *text = allocate(1 << 20);
    if (fread(text, 1, (1 << 20) - 1, file) == 0) fail("%s is empty", path);
    fclose(file);
    return text;
}

/* A program for element types and a kind of sums. */
typedef struct build {
    ds_element_type sample, model_output, model_input;
    bool has_float64_sums;
    cl_program program;
    cl_kernel input, step, threshold;
} build;

static bool has_halves_only(const build *b) { return b->sample >= DS_FLOAT16 && b->model_output >= DS_FLOAT16; }
static bool is_wide(const build *b) { return b->sample == DS_FLOAT64 || b->model_output == DS_FLOAT64; }

static void compile(build *b, const char *table, const char *kernels) {
    /* With float32 sums, the device counts as one without float64. */
    const char *texts[] = {b->has_float64_sums ? "" : "#undef cl_khr_fp64\n#undef __opencl_c_fp64\n", table, kernels};
    char options[256], log[8192] = "";
    cl_int status;
    snprintf(options, sizeof options, "-DDS_SAMPLE_TYPE=%d -DDS_MODEL_OUTPUT_TYPE=%d -DDS_MODEL_INPUT_TYPE=%d%s", b->sample,
             b->model_output, b->model_input, b->has_float64_sums ? " -DDS_FLOAT64_SUMS" : "");
    b->program = clCreateProgramWithSource(context, 3, texts, NULL, &status);
    CL(status);
    status = clBuildProgram(b->program, 1, &device, options, NULL, NULL);
    clGetProgramBuildInfo(b->program, device, CL_PROGRAM_BUILD_LOG, sizeof log - 1, log, NULL);
    if (status != CL_SUCCESS) fail("the kernels don't build with %s:\n%s", options, log);
    b->input = clCreateKernel(b->program, "ds_device_input", &status);
    CL(status);
    b->step = clCreateKernel(b->program, "ds_device_step", &status);
    CL(status);
    b->threshold = clCreateKernel(b->program, "ds_device_threshold", &status);
    CL(status);
}

/* A buffer with its copy on the host. */
typedef struct buffer {
    cl_mem memory; /* NULL: an argument that is NULL */
    void *data;
    size_t bytes;
} buffer;

static buffer make_buffer(size_t bytes) {
    cl_int status;
    buffer b = {.data = allocate(bytes), .bytes = bytes};
    b.memory = clCreateBuffer(context, CL_MEM_READ_WRITE, bytes, NULL, &status);
    CL(status);
    CL(clEnqueueWriteBuffer(queue, b.memory, CL_TRUE, 0, bytes, b.data, 0, NULL, NULL));
    return b;
}
static void upload(const buffer *b) { CL(clEnqueueWriteBuffer(queue, b->memory, CL_TRUE, 0, b->bytes, b->data, 0, NULL, NULL)); }
static void download(const buffer *b) { CL(clEnqueueReadBuffer(queue, b->memory, CL_TRUE, 0, b->bytes, b->data, 0, NULL, NULL)); }
static void free_buffer(buffer *b) {
    if (b->memory) clReleaseMemObject(b->memory);
    free(b->data);
    *b = (buffer){0};
}

static void set_buffers(cl_kernel kernel, cl_uint first, size_t n, const buffer *const *buffers) {
    for (size_t i = 0; i < n; i++) CL(clSetKernelArg(kernel, first + (cl_uint)i, sizeof(cl_mem), &buffers[i]->memory));
}
static void set_integer(cl_kernel kernel, cl_uint index, size_t value) {
    const cl_uint integer = (cl_uint)value;
    CL(clSetKernelArg(kernel, index, sizeof integer, &integer));
}

/* ---- Requests */

enum { MOST_ITEMS = 96, MOST_STEPS = 12 };

typedef struct request {
    char name[128];
    ds_scheduler scheduler;
    ds_session session;
    ds_plan_properties plan;
    double timesteps[64], input_scales[64];
    size_t begin, first_record, tick, index;
    float guidance;
} request;

typedef enum variant { PLAIN, GUIDED, CLAMPED, THRESHOLDED, LEARNED, N_VARIANTS } variant;
static const char *const variant_names[] = {"plain", "guided", "clamped", "thresholded", "learned variance"};
static const char *const overrides[] = {
    NULL, NULL, "{\"clip_sample\": true, \"clip_sample_range\": 0.75}",
    "{\"thresholding\": true, \"dynamic_thresholding_ratio\": 0.9, \"sample_max_value\": 2.5, \"clip_sample\": false}", NULL};

/* Schedulers of models that learn their variance; the first is DeepFloyd IF's. */
static const char *const learned[] = {
    ("{\"_class_name\": \"DDPMScheduler\", \"beta_schedule\": \"squaredcos_cap_v2\", \"variance_type\": \"learned_range\","
     " \"thresholding\": true, \"dynamic_thresholding_ratio\": 0.95, \"sample_max_value\": 1.5, \"clip_sample\": true}"),
    "{\"_class_name\": \"DDPMScheduler\", \"variance_type\": \"learned_range\", \"clip_sample\": false}",
    "{\"_class_name\": \"DDPMScheduler\", \"variance_type\": \"learned\"}",
    "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"variance_type\": \"learned_range\"}",
    "{\"_class_name\": \"UnCLIPScheduler\", \"variance_type\": \"learned_range\"}",
};

typedef struct batch {
    variant variant;
    size_t n_items, n_others, n_records, n_slots, record_bytes;
    request items[MOST_ITEMS];
    char *table;
    bool has_thresholds;
} batch;

/* Plans a request, and adds its table; but few that haven't the clamp of the variant. */
static void add_request(batch *b, const char *json, const char *more) {
    const ds_clamp clamps[N_VARIANTS] = {[CLAMPED] = DS_CLAMP_RANGE, [THRESHOLDED] = DS_CLAMP_THRESHOLD};
    request *r = &b->items[b->n_items];
    size_t length;
    if (ds_scheduler_create(json, strlen(json), NULL, more, &r->scheduler) != DS_OK) {
        if (!more) fail("%s: %s", json, ds_error_message());
        return; /* the class excludes the option */
    }
    check(ds_scheduler_class_name(r->scheduler, r->name, sizeof r->name, NULL));
    if (ds_scheduler_set_timesteps(r->scheduler, 4 + b->n_items % 5, NULL) != DS_OK) fail("%s: %s", r->name, ds_error_message());
    check(ds_scheduler_plan_properties(r->scheduler, &r->plan));
    if (clamps[b->variant] != DS_CLAMP_NONE && r->plan.clamp != clamps[b->variant] && b->n_others++ > 1) {
        check(ds_scheduler_free(r->scheduler));
        return;
    }
    check(ds_scheduler_timesteps(r->scheduler, r->timesteps, 64, NULL));
    check(ds_scheduler_input_scales(r->scheduler, r->input_scales, 64, NULL));
    r->begin = b->n_items % 3 == 2 ? 2 : 0;
    if (r->begin >= r->plan.n_steps || ds_session_create(r->scheduler, r->begin, &r->session) != DS_OK) {
        r->begin = 0;
        check(ds_session_create(r->scheduler, 0, &r->session));
    }
    r->tick = b->n_items * 5 % 7;
    r->first_record = b->n_records;
    r->guidance = b->n_items % 4 == 1 ? 1 : 0.1f + 0.7f * (float)(b->n_items % 13); /* below 1, too, where 1 - scale is rounded */
    check(ds_scheduler_device_table(r->scheduler, b->n_records, NULL, 0, &length));
    b->table = realloc(b->table, b->record_bytes + length);
    if (!b->table) fail("no memory for the table");
    check(ds_scheduler_device_table(r->scheduler, b->n_records, b->table + b->record_bytes, length, NULL));
    b->record_bytes += length;
    b->n_records = b->record_bytes / DS_DEVICE_ROW_BYTES;
    if (r->plan.n_slots > b->n_slots) b->n_slots = r->plan.n_slots;
    b->has_thresholds |= r->plan.clamp == DS_CLAMP_THRESHOLD;
    b->n_items++;
}

static void make_batch(batch *b, variant v) {
    *b = (batch){.variant = v};
    if (v == LEARNED) {
        for (size_t i = 0; i < sizeof learned / sizeof *learned; i++) add_request(b, learned[i], NULL);
        return;
    }
    for (size_t i = 0; ds_supported_class_name(i); i++) {
        char json[128];
        /* A level that float16 holds, for the class whose samples exceed it otherwise. */
        const char *level = strcmp(ds_supported_class_name(i), "ScoreSdeVeScheduler") ? "" : ", \"sigma_max\": 50";
        snprintf(json, sizeof json, "{\"_class_name\": \"%s\"%s}", ds_supported_class_name(i), level);
        add_request(b, json, overrides[v]);
    }
}

static void free_batch(batch *b) {
    for (size_t i = 0; i < b->n_items; i++) {
        check(ds_session_free(b->items[i].session));
        check(ds_scheduler_free(b->items[i].scheduler));
    }
    free(b->table);
}

/* ---- Comparing */

/* Outcomes of a build's runs. */
typedef struct tally {
    size_t n_steps, n_equal, n_bounded;
    size_t n_elements, n_beyond; /* of outputs that were compared: all, and those that aren't finite or overflow */
    double worst;                /* the greatest error as a share of its bound */
} tally;

static void compare_bits(const build *b, const request *r, const char *what, const void *actual, const void *expected, size_t n,
                         tally *t) {
    const size_t size = ds_element_size(b->sample);
    t->n_elements += n;
    for (size_t i = 0; i < n; i++) {
        t->n_beyond += isfinite(element(b->sample, expected, i)) ? 0 : 1;
        if (memcmp((const char *)actual + i * size, (const char *)expected + i * size, size) == 0) continue;
        const double a = element(b->sample, actual, i), e = element(b->sample, expected, i);
        if (isnan(a) && isnan(e)) continue;
        fail("%s, step %zu: element %zu of %zu of the %s is %.17g, expected %.17g", r->name, r->index, i, n, what, a, e);
    }
    t->n_equal++;
}

/* A sum of an element's terms, and the sum of their magnitudes. */
typedef struct sum {
    double value, magnitude;
    int n_terms;
} sum;

static void add(sum *s, double coefficient, double x) {
    if (coefficient == 0) return;
    s->value += coefficient * x;
    s->magnitude += fabs(coefficient * x);
    s->n_terms++;
}

/* The error of a sum, unrounded. */
static double sum_error(sum s, bool single) {
    if (single) return (s.n_terms + 1) * 0x1p-24 * s.magnitude + s.n_terms * 0x1p-149;
    return (s.n_terms + 3) * (s.n_terms + 3) * 0x1p-47 * s.magnitude + s.n_terms * 0x1p-124;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The tensors of an item: inputs of a step, and its outputs. */
typedef struct item {
    const void *x, *e, *u, *z, *slots[DS_MAX_SLOTS];
    const void *next, *report, *stores[DS_MAX_STORES];
} item;

/* Compares a step of float32 sums with the record's sums in float64. */
static void compare_sums(const build *b, const request *r, const ds_device_row *record, bool has_variance, float guidance,
                         bool guided, const item *tensors, size_t n, tally *t) {
    const bool single = has_halves_only(b) && record->noise_factor == 0;
    double *p = allocate(n * sizeof *p), *p_errors = allocate(n * sizeof *p), *sorted = allocate(n * sizeof *p);
    const double c = guided ? guidance : 1, complement = guided ? 1 - (double)guidance : 0;
    double range = record->clamp == DS_CLAMP_RANGE ? (float)record->clamp_range : INFINITY, range_error = 0;
    for (size_t i = 0; i < n; i++) {
        sum s = {0};
        if (record->prediction[0] != 0) add(&s, record->prediction[0], element(b->sample, tensors->x, i));
        if (record->prediction[1] != 0) {
            add(&s, c * record->prediction[1], element(b->model_output, tensors->e, i));
            if (complement != 0) add(&s, complement * record->prediction[1], element(b->model_output, tensors->u, i));
        }
        if (record->prediction[2] != 0) add(&s, record->prediction[2], element(b->sample, tensors->z, i));
        p[i] = s.value;
        p_errors[i] = sum_error(s, single) + 0x1p-24 * fabs(s.value) + 0x1p-126;
        sorted[i] = fabs(p[i]);
        range_error = fmax(range_error, p_errors[i]);
    }
    if (record->clamp == DS_CLAMP_THRESHOLD) {
        const double rank = (float)record->threshold_ratio * (double)(n - 1);
        const size_t k = (size_t)rank;
        qsort(sorted, n, sizeof *sorted, ascending);
        const double quantile = sorted[k] + (rank - (double)k) * (sorted[k + 1 < n ? k + 1 : k] - sorted[k]);
        range = fmin(fmax(quantile, 1), record->threshold_maximum);
        range_error += 0x1p-22 * sorted[k + 1 < n ? k + 1 : k];
    } else {
        range_error = 0;
    }
    for (size_t i = 0; i < n; i++) {
        p[i] = fmin(fmax(p[i], -range), range);
        if (record->clamp != DS_CLAMP_THRESHOLD) continue;
        p_errors[i] = (p_errors[i] + range_error + range_error * fabs(p[i] / range)) / range + 0x1p-22 * fabs(p[i] / range);
        p[i] /= range;
    }
    for (int k = 0; k < DS_DEVICE_OUTPUTS; k++) {
        if (k == 1 || k == 2 ? record->stores[k - 1] < 0 : false) continue;
        const void *actual = k == 0 ? tensors->next : k == DS_DEVICE_REPORT ? tensors->report : tensors->stores[k - 1];
        const double *o = record->outputs[k];
        t->n_elements += n;
        for (size_t i = 0; i < n; i++) {
            sum s = {0};
            double error = 0;
            if (o[0] != 0) add(&s, o[0], element(b->sample, tensors->x, i));
            if (o[1] != 0) {
                add(&s, c * o[1], element(b->model_output, tensors->e, i));
                if (complement != 0) add(&s, complement * o[1], element(b->model_output, tensors->u, i));
            }
            if (o[2] != 0) {
                double factor = 1;
                if (has_variance && record->noise_factor != 0) {
                    const double v = element(b->model_output, tensors->e, n + i);
                    factor = record->noise_factor == 1 ? sqrt(fmax(v, 0)) : exp(record->noise_offset + record->noise_slope * v);
                }
                const double z = factor * element(b->sample, tensors->z, i);
                add(&s, o[2], z);
                if (record->noise_factor != 0) error += 0x1p-20 * fabs(o[2] * z);
            }
            for (int j = 0; j < DS_DEVICE_MAX_READS; j++)
                if (o[3 + j] != 0) add(&s, o[3 + j], element(b->sample, tensors->slots[record->reads[j]], i));
            if (o[9] != 0) {
                add(&s, o[9], p[i]);
                error += fabs(o[9]) * p_errors[i];
            }
            error += sum_error(s, single);
            error += unit_roundoff(b->sample) * (fabs(s.value) + error) + least_error(b->sample);
            const double a = element(b->sample, actual, i);
            if (!(fabs(s.value) < greatest(b->sample) * (1 - 0x1p-10)) || s.magnitude > 3e38) {
                t->n_beyond++;
                continue;
            }
            if (!(fabs(a - s.value) <= error))
                fail("%s, step %zu: element %zu of %zu of output %d is %.9g, expected %.9g within %.3g", r->name, r->index, i, n, k,
                     a, s.value, error);
            if (fabs(a - s.value) / error > t->worst) t->worst = fabs(a - s.value) / error;
        }
    }
    t->n_bounded++;
    free(p);
    free(p_errors);
    free(sorted);
}

/* ---- Running a batch */

static ds_tensor tensor(void *data, ds_element_type type, const int64_t *shape) { return (ds_tensor){data, type, 2, shape}; }

/* Random elements: stretches of a pool, which has each type. */
enum { POOL = 1 << 18 };
static void *pools[4];
static void make_pools(void) {
    for (int type = 0; type < 4; type++) pools[type] = allocate(POOL * sizeof(double));
    for (size_t i = 0; i < POOL; i++) {
        const double value = draw();
        for (int type = 0; type < 4; type++) set_element((ds_element_type)type, pools[type], i, value);
    }
}
static void fill(ds_element_type type, void *data, size_t n) {
    const size_t size = ds_element_size(type);
    for (size_t i = 0; i < n;) {
        draw();
        const size_t begin = (size_t)(state >> 33) % (POOL / 2), count = n - i < POOL / 2 ? n - i : POOL / 2;
        memcpy((char *)data + i * size, (const char *)pools[type] + begin * size, count * size);
        i += count;
    }
}

static void run(const build *b, batch *all, size_t n, tally *t) {
    const size_t n_items = all->n_items, size = ds_element_size(b->sample), model_size = ds_element_size(b->model_output);
    const bool guided = all->variant == GUIDED, has_variance = all->variant == LEARNED, in_place = n % 2 == 1;
    const size_t model_elements = has_variance ? 2 * n : n, words = 65544, n_launches = is_wide(b) ? 5 : 2;
    const size_t real = b->has_float64_sums ? 8 : 4;
    const int64_t shape[] = {1, (int64_t)n}, model_shape[] = {1, (int64_t)model_elements};
    buffer none = {0};
    buffer table = make_buffer(all->record_bytes), rows = make_buffer(n_items * 4), counters = make_buffer(n_items * 4);
    buffer e = make_buffer(n_items * model_elements * model_size),
           u = make_buffer(guided ? n_items * model_elements * model_size : 1);
    buffer guidance = make_buffer(n_items * 4), x = make_buffer(n_items * n * size), z = make_buffer(n_items * n * size);
    buffer slots = make_buffer(all->n_slots * n_items * n * size + 1), next = make_buffer(in_place ? 1 : n_items * n * size);
    buffer report = make_buffer(n_items * n * size), input = make_buffer(n_items * n * ds_element_size(b->model_input));
    buffer timesteps = make_buffer(n_items * 4), scales = make_buffer(n_items * 4);
    buffer workspace = make_buffer(all->has_thresholds ? n_items * words * 4 : 1), thresholds = make_buffer(n_items * real);
    buffer *samples = in_place ? &x : &next;
    memcpy(table.data, all->table, all->record_bytes);
    upload(&table);
    for (size_t i = 0; i < n_items; i++) ((float *)guidance.data)[i] = all->items[i].guidance;
    upload(&guidance);
    void *old_x = allocate(n_items * n * size), *old_slots = allocate(slots.bytes);
    void *host_next = allocate(n * size), *host_report = allocate(n * size), *host_input = allocate(n * size);
    fill(b->sample, x.data, n_items * n);
    upload(&x);
    for (size_t i = 0; i < n_items; i++) {
        all->items[i].index = all->items[i].begin;
        check(ds_session_reset(all->items[i].session));
    }

    const size_t threads = n < 1000 ? 16 : 64, blocks = 1 + n % 3;
    const size_t local[] = {threads, 1}, global[] = {threads * blocks, n_items};
    const int32_t *const row_numbers = rows.data;
    for (size_t tick = 0, n_left = n_items; n_left > 0; tick++) {
        bool joined = false;
        for (size_t i = 0; i < n_items; i++) {
            request *r = &all->items[i];
            if (r->tick != tick) continue;
            joined = true;
            for (size_t j = 0; j < n; j++)
                set_element(b->sample, x.data, i * n + j, r->plan.init_noise_sigma * element(b->sample, x.data, i * n + j));
            ((int32_t *)rows.data)[i] = (int32_t)DS_DEVICE_RECORD(r->first_record, r->begin, 0, r->plan.warm_up);
        }
        const buffer *before[] = {&x, &input, &timesteps, &scales};
        if (joined) {
            const buffer *first[] = {&table};
            upload(&x);
            upload(&rows);
            set_buffers(b->input, 0, 1, first);
            set_integer(b->input, 1, all->n_records);
            CL(clSetKernelArg(b->input, 2, sizeof(cl_mem), &rows.memory));
            set_integer(b->input, 3, n);
            set_buffers(b->input, 4, 4, before);
            CL(clEnqueueNDRangeKernel(queue, b->input, 2, NULL, global, local, 0, NULL, NULL));
        }
        download(&input);
        download(&timesteps);
        download(&scales);
        for (size_t i = 0; i < n_items; i++) {
            request *r = &all->items[i];
            if (row_numbers[i] == 0) continue;
            const ds_device_row *record = (const ds_device_row *)(const void *)table.data + row_numbers[i];
            double timestep;
            check(ds_session_timestep(r->session, &timestep));
            if (((float *)timesteps.data)[i] != (float)timestep || ((float *)scales.data)[i] != (float)record->input_scale)
                fail("%s, step %zu: the model is told %.9g at scale %.9g, expected %.9g at %.9g", r->name, r->index,
                     ((float *)timesteps.data)[i], ((float *)scales.data)[i], timestep, record->input_scale);
            const char *inputs = (const char *)input.data + i * n * ds_element_size(b->model_input);
            size_t first = 0;
            while (r->timesteps[first] != timestep) first++;
            if (b->model_input == b->sample && r->input_scales[first] == record->input_scale &&
                (b->has_float64_sums || has_halves_only(b))) {
                const ds_tensor from = tensor((char *)x.data + i * n * size, b->sample, shape);
                const ds_tensor to = tensor(host_input, b->sample, shape);
                const ds_status status = ds_scheduler_scale_model_input(r->scheduler, &from, timestep, &to, 1);
                /* Some schedulers know other timesteps than the model is told. */
                if (status != DS_UNKNOWN_TIMESTEP) {
                    check(status);
                    compare_bits(b, r, "model input", inputs, host_input, n, t);
                    continue;
                }
            }
            for (size_t j = 0; j < n; j++) {
                const double value = record->input_scale * element(b->sample, x.data, i * n + j);
                const double is = element(b->model_input, inputs, j);
                if (fabs(value) > greatest(b->model_input) * 0.99) continue;
                if (!(fabs(is - value) <=
                      (unit_roundoff(b->model_input) * (1 + 0x1p-10) + 0x1p-29) * fabs(value) + least_error(b->model_input)))
                    fail("%s, step %zu: element %zu of the model input is %.9g, expected %.9g", r->name, r->index, j, is, value);
            }
        }

        fill(b->model_output, e.data, n_items * model_elements);
        fill(b->sample, z.data, n_items * n);
        upload(&e);
        upload(&z);
        if (guided) {
            fill(b->model_output, u.data, n_items * model_elements);
            upload(&u);
        }
        memcpy(old_x, x.data, x.bytes);
        memcpy(old_slots, slots.data, slots.bytes);
        const buffer *tables[] = {&table}, *row_buffer[] = {&rows};
        for (size_t launch = 0; all->has_thresholds && launch < n_launches; launch++) {
            const buffer *outputs[] = {&e, guided ? &u : &none, guided ? &guidance : &none},
                         *rest[] = {&x, &z, &workspace, &thresholds};
            set_buffers(b->threshold, 0, 1, tables);
            set_integer(b->threshold, 1, all->n_records);
            set_buffers(b->threshold, 2, 1, row_buffer);
            set_integer(b->threshold, 3, n);
            set_integer(b->threshold, 4, launch);
            set_buffers(b->threshold, 5, 3, outputs);
            set_integer(b->threshold, 8, has_variance);
            set_buffers(b->threshold, 9, 4, rest);
            CL(clEnqueueNDRangeKernel(queue, b->threshold, 2, NULL, global, local, 0, NULL, NULL));
        }
        const buffer *outputs[] = {&counters, &e, guided ? &u : &none, guided ? &guidance : &none};
        const buffer *rest[] = {
            &x,         &z,     all->n_slots ? &slots : &none, all->has_thresholds ? &thresholds : &none, samples, &report, &input,
            &timesteps, &scales};
        set_buffers(b->step, 0, 1, tables);
        set_integer(b->step, 1, all->n_records);
        set_buffers(b->step, 2, 1, row_buffer);
        set_integer(b->step, 3, n);
        set_buffers(b->step, 4, 4, outputs);
        set_integer(b->step, 8, has_variance);
        set_buffers(b->step, 9, 9, rest);
        CL(clEnqueueNDRangeKernel(queue, b->step, 2, NULL, global, local, 0, NULL, NULL));
        download(samples);
        download(&report);
        download(&slots);

        n_left = 0;
        for (size_t i = 0; i < n_items; i++) {
            request *r = &all->items[i];
            const size_t at = i * n * size, model_at = i * model_elements * model_size;
            if (row_numbers[i] == 0) {
                if (memcmp((char *)samples->data + at, (char *)old_x + at, n * size) != 0)
                    fail("a free place's sample has changed");
                n_left += r->tick > tick;
                continue;
            }
            const ds_device_row *record = (const ds_device_row *)(const void *)table.data + row_numbers[i];
            const ds_tensor model = tensor((char *)e.data + model_at, b->model_output, model_shape);
            const ds_tensor unconditional = tensor((char *)u.data + (guided ? model_at : 0), b->model_output, model_shape);
            const ds_tensor old = tensor((char *)old_x + at, b->sample, shape),
                            noise = tensor((char *)z.data + at, b->sample, shape);
            const ds_tensor to = tensor(host_next, b->sample, shape), p = tensor(host_report, b->sample, shape);
            const ds_guidance g = {r->guidance, 0};
            check(guided ? ds_session_step_guided(r->session, &model, &unconditional, &g, &old, &noise, &to, &p, 1)
                         : ds_session_step(r->session, &model, &old, &noise, &to, &p, 1));
            const bool is_bitwise = b->has_float64_sums || (has_halves_only(b) && !guided && record->clamp != DS_CLAMP_THRESHOLD &&
                                                            record->noise_factor == 0);
            if (is_bitwise && (b->has_float64_sums || !all->has_thresholds)) {
                compare_bits(b, r, "next sample", (char *)samples->data + at, host_next, n, t);
                compare_bits(b, r, "report", (char *)report.data + at, host_report, n, t);
            }
            if (!b->has_float64_sums) {
                item tensors = {.x = old.data,
                                .e = model.data,
                                .u = unconditional.data,
                                .z = noise.data,
                                .next = (char *)samples->data + at,
                                .report = (char *)report.data + at};
                for (size_t slot = 0; slot < all->n_slots; slot++) tensors.slots[slot] = (char *)old_slots + slot * x.bytes + at;
                for (int k = 0; k < DS_MAX_STORES; k++)
                    if (record->stores[k] >= 0) tensors.stores[k] = (char *)slots.data + (size_t)record->stores[k] * x.bytes + at;
                compare_sums(b, r, record, has_variance, r->guidance, guided && r->guidance != 1, &tensors, n, t);
            }
            t->n_steps++;
            r->index++;
            n_left += record->next != 0;
            if ((r->index == r->plan.n_steps) != (record->next == 0)) fail("%s: the run doesn't end at its last step", r->name);
        }
        if (!in_place) {
            memcpy(x.data, next.data, x.bytes);
            upload(&x);
        }
        download(&rows);
        download(&counters);
        for (size_t i = 0; i < n_items; i++)
            if (((uint32_t *)counters.data)[i] != 0) fail("a counter is %u after the step", ((uint32_t *)counters.data)[i]);
    }
    download(&workspace);
    for (size_t i = 0; i + 4 <= workspace.bytes; i += 4)
        if (*(uint32_t *)(void *)((char *)workspace.data + i) != 0) fail("the workspace isn't clean: word %zu", i / 4);
    buffer *buffers[] = {&table, &rows, &counters, &e,     &u,         &guidance, &x,         &z,
                         &slots, &next, &report,   &input, &timesteps, &scales,   &workspace, &thresholds};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) free_buffer(buffers[i]);
    free(old_x);
    free(old_slots);
    free(host_next);
    free(host_report);
    free(host_input);
}

int main(int argc, char **argv) {
    static const size_t sizes[] = {1, 63, 64, 65, 16384, 16385};
    static const char *const type_names[] = {"float32", "float64", "float16", "bfloat16"};
    static build builds[] = {
        {.sample = DS_FLOAT32, .model_output = DS_FLOAT32},
        {.sample = DS_FLOAT32, .model_output = DS_FLOAT32, .has_float64_sums = true},
        {.sample = DS_FLOAT64, .model_output = DS_FLOAT64, .model_input = DS_FLOAT64, .has_float64_sums = true},
        {.sample = DS_FLOAT16, .model_output = DS_FLOAT16, .model_input = DS_FLOAT16},
        {.sample = DS_FLOAT16, .model_output = DS_FLOAT16, .model_input = DS_FLOAT16, .has_float64_sums = true},
        {.sample = DS_BFLOAT16, .model_output = DS_BFLOAT16, .model_input = DS_BFLOAT16},
        {.sample = DS_BFLOAT16, .model_output = DS_BFLOAT16, .model_input = DS_BFLOAT16, .has_float64_sums = true},
        {.sample = DS_FLOAT32, .model_output = DS_FLOAT16, .model_input = DS_FLOAT16},
        {.sample = DS_FLOAT32, .model_output = DS_BFLOAT16, .model_input = DS_BFLOAT16, .has_float64_sums = true},
    };
    static batch batches[N_VARIANTS];
    const bool is_quick = argc == 3 && strcmp(argv[2], "quick") == 0;
    if (argc != 2 && !is_quick) fail("usage: device_opencl FOLDER [quick]");
    char *table = read_file(argv[1], "device_table.h"), *kernels = read_file(argv[1], "device_kernels.h");
    if (ds_version() / 10000 != DS_VERSION_MAJOR) fail("the library has version %u, the header %d", ds_version(), DS_VERSION);
    open_device();
    make_pools();
    for (int v = 0; v < N_VARIANTS; v++) {
        make_batch(&batches[v], (variant)v);
        printf("%s: %zu requests, %zu records\n", variant_names[v], batches[v].n_items, batches[v].n_records);
    }
    for (size_t i = 0; i < sizeof builds / sizeof *builds; i++) {
        build *b = &builds[i];
        tally t = {0};
        compile(b, table, kernels);
        for (int v = 0; v < N_VARIANTS; v++)
            for (size_t s = 0; s < (is_quick ? 4 : sizeof sizes / sizeof *sizes); s++) run(b, &batches[v], sizes[s], &t);
        if (t.n_beyond > t.n_elements / 100) fail("%zu of %zu elements are out of range", t.n_beyond, t.n_elements);
        printf("%s with %s, %s sums: %zu steps, %zu tensors equal, %zu steps within the bound", type_names[b->sample],
               type_names[b->model_output], b->has_float64_sums ? "float64" : "float32", t.n_steps, t.n_equal, t.n_bounded);
        printf(t.n_bounded ? ", at most %.2f of it\n" : "\n", t.worst);
        fflush(stdout);
        CL(clReleaseKernel(b->input));
        CL(clReleaseKernel(b->step));
        CL(clReleaseKernel(b->threshold));
        CL(clReleaseProgram(b->program));
    }
    for (int v = 0; v < N_VARIANTS; v++) free_batch(&batches[v]);
    CL(clReleaseCommandQueue(queue));
    CL(clReleaseContext(context));
    free(table);
    free(kernels);
    return EXIT_SUCCESS;
}
