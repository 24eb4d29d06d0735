/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Serves requests on an OpenCL device: samples, slots and steps stay there, and nothing is read back before a request ends.
 *
 *     sample [FOLDER]      the folder with device_table.h and device_kernels.h, if not the one that the library was found in
 *
 * Ten requests with schedulers and numbers of steps of their own share a batch of four places. A request waits for a free place, so the
 * items of the batch stand at different timesteps. The model is a stand-in: a multiple of its input that depends on the timestep.
 * Afterwards each request runs alone through sessions on the host. With sums in float64 its sample has the same bits; with sums in float32
 * it may differ by less than 2^-18 of the greatest element.
 */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <device_table.h>
#include <diffusion_scheduling.h>

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef INCLUDE
#define INCLUDE "/usr/local/include"
#endif

enum { N_REQUESTS = 10, N_PLACES = 4, N_ELEMENTS = 4 * 64 * 64, N_THREADS = 64, THRESHOLD_LAUNCHES = 2, THRESHOLD_WORDS = 65544 };

static const char model_source[] =
    "kernel void model(global const float *input, global const float *timesteps, global float *output) {\n"
    "    const size_t item = get_global_id(1), i = item * get_global_size(0) + get_global_id(0);\n"
    "    output[i] = input[i] * (0.25f + timesteps[item] / 2048);\n"
    "}\n";
static float model(float input, double timestep) { return input * (0.25f + (float)timestep / 2048); }

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

static void check_cl(cl_int status, const char *what) {
    if (status != CL_SUCCESS) fail("%s failed with OpenCL's status %d", what, status);
}

static void *allocate(size_t n, size_t size) {
    void *memory = calloc(n, size);
    if (!memory) fail("no memory for %zu bytes", n * size);
    return memory;
}

/* ---- Requests */

typedef struct request {
    const char *scheduler; /* the text of its configuration */
    size_t n_steps;
    ds_scheduler plan;
    int32_t first_row;
    float *start, *sample; /* its noise, and what became of it on the device */
} request;

static request requests[N_REQUESTS] = {
    {.scheduler = "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"use_karras_sigmas\": true}", .n_steps = 12},
    {.scheduler = "{\"_class_name\": \"EulerDiscreteScheduler\"}", .n_steps = 20},
    {.scheduler = "{\"_class_name\": \"DEISMultistepScheduler\", \"solver_order\": 3}", .n_steps = 10},
    {.scheduler = "{\"_class_name\": \"UniPCMultistepScheduler\"}", .n_steps = 8},
    {.scheduler = "{\"_class_name\": \"DDIMScheduler\"}", .n_steps = 15},
    {.scheduler = "{\"_class_name\": \"EulerAncestralDiscreteScheduler\"}", .n_steps = 9},
    {.scheduler = "{\"_class_name\": \"HeunDiscreteScheduler\"}", .n_steps = 6},
    {.scheduler = "{\"_class_name\": \"DDPMScheduler\", \"thresholding\": true}", .n_steps = 14},
    {.scheduler = "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"algorithm_type\": \"sde-dpmsolver++\"}", .n_steps = 11},
    {.scheduler = "{\"_class_name\": \"LCMScheduler\"}", .n_steps = 4},
};

static const int64_t shape[] = {1, N_ELEMENTS};
static ds_tensor tensor(float *data) { return (ds_tensor){data, DS_FLOAT32, 2, shape}; }

/* Draws noise as often as a row asks for it; the last draw is read. */
static void draw(ds_noise noise, size_t n_draws, float *out) {
    const ds_tensor to = tensor(out);
    for (size_t k = 0; k < n_draws; k++) check(ds_noise_fill(noise, &to, 0));
}

/* Plans the requests, makes the first samples, and joins the plans' tables. */
static ds_device_row *plan_requests(size_t *n_rows, size_t *n_slots) {
    ds_device_row *table = NULL;
    *n_rows = *n_slots = 0;
    for (size_t i = 0; i < N_REQUESTS; i++) {
        request *r = &requests[i];
        ds_plan_properties properties;
        size_t length;
        check(ds_scheduler_create(r->scheduler, strlen(r->scheduler), NULL, NULL, &r->plan));
        check(ds_scheduler_set_timesteps(r->plan, r->n_steps, NULL));
        check(ds_scheduler_plan_properties(r->plan, &properties));
        check(ds_scheduler_device_table(r->plan, *n_rows, NULL, 0, &length));
        table = realloc(table, *n_rows * sizeof *table + length);
        if (!table) fail("no memory for the table");
        check(ds_scheduler_device_table(r->plan, *n_rows, table + *n_rows, length, NULL));
        r->first_row = (int32_t)*n_rows + 1; /* behind the record of free places */
        *n_rows += length / sizeof *table;
        *n_slots = properties.n_slots > *n_slots ? properties.n_slots : *n_slots;

        r->start = allocate(N_ELEMENTS, sizeof *r->start);
        r->sample = allocate(N_ELEMENTS, sizeof *r->sample);
        const ds_tensor start = tensor(r->start);
        ds_noise noise;
        check(ds_noise_create(DS_NOISE_TORCH_CPU, i, &noise));
        check(ds_noise_fill(noise, &start, 0));
        check(ds_noise_free(noise));
        for (size_t k = 0; k < N_ELEMENTS; k++) r->start[k] *= (float)properties.init_noise_sigma;
    }
    return table;
}

/* Runs a request alone, through a session on the host. */
static void run_alone(const request *r, uint64_t seed, float *sample) {
    float *input = allocate(N_ELEMENTS, sizeof *input), *output = allocate(N_ELEMENTS, sizeof *output);
    float *noise_elements = allocate(N_ELEMENTS, sizeof *noise_elements);
    const ds_tensor x = tensor(sample), scaled = tensor(input), e = tensor(output), z = tensor(noise_elements);
    ds_session session;
    ds_noise noise;
    ds_row row;
    double timestep;
    memcpy(sample, r->start, N_ELEMENTS * sizeof *sample);
    check(ds_noise_create(DS_NOISE_TORCH_CPU, seed, &noise));
    check(ds_session_create(r->plan, 0, &session));
    for (size_t i = 0; ds_session_timestep(session, &timestep) == DS_OK; i++) {
        check(ds_scheduler_scale_model_input(r->plan, &x, timestep, &scaled, 0));
        for (size_t k = 0; k < N_ELEMENTS; k++) output[k] = model(input[k], timestep);
        check(ds_scheduler_row(r->plan, i, i, &row));
        draw(noise, row.n_noise_draws, noise_elements);
        check(ds_session_step(session, &e, &x, &z, &x, NULL, 0));
    }
    check(ds_session_free(session));
    check(ds_noise_free(noise));
    free(input);
    free(output);
    free(noise_elements);
}

/* ---- The device */

static cl_device_id device;
static cl_context context;
static cl_command_queue queue;

static void open_device(void) {
    cl_platform_id platform;
    char name[256] = "";
    cl_int status;
    if (clGetPlatformIDs(1, &platform, NULL) != CL_SUCCESS)
        fail("no OpenCL platform is installed: a driver for the device brings one, and pocl-opencl-icd one for the processor");
    check_cl(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL), "finding a device");
    check_cl(clGetDeviceInfo(device, CL_DEVICE_NAME, sizeof name, name, NULL), "naming the device");
    context = clCreateContext(NULL, 1, &device, NULL, NULL, &status);
    check_cl(status, "making a context");
    queue = clCreateCommandQueue(context, device, CL_QUEUE_PROFILING_ENABLE, &status);
    check_cl(status, "making a queue");
    printf("device: %s\n", name);
}

static bool has_float64(void) {
    cl_device_fp_config config = 0;
    return clGetDeviceInfo(device, CL_DEVICE_DOUBLE_FP_CONFIG, sizeof config, &config, NULL) == CL_SUCCESS && config != 0;
}

static char *read_file(const char *folder, const char *name) {
    enum { MOST = 1 << 20 };
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file) fail("%s can't be read: give the folder of device_kernels.h as an argument", path);
    char *text = allocate(MOST, 1);
    if (fread(text, 1, MOST - 1, file) == 0) fail("%s is empty", path);
    fclose(file);
    return text;
}

static cl_program build(const char *folder, bool has_float64_sums) {
    char *table = read_file(folder, "device_table.h"), *kernels = read_file(folder, "device_kernels.h"), log[16384] = "";
    const char *texts[] = {table, kernels, model_source};
    cl_int status;
    cl_program program = clCreateProgramWithSource(context, 3, texts, NULL, &status);
    check_cl(status, "reading the kernels");
    status = clBuildProgram(program, 1, &device, has_float64_sums ? "-DDS_FLOAT64_SUMS" : "", NULL, NULL);
    clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, sizeof log - 1, log, NULL);
    if (status != CL_SUCCESS) fail("the kernels don't build (OpenCL's status %d):\n%s", status, log);
    free(table);
    free(kernels);
    return program;
}

static cl_mem make_buffer(size_t bytes, const void *contents) {
    cl_int status;
    void *zeros = contents ? NULL : allocate(bytes, 1);
    cl_mem buffer =
        clCreateBuffer(context, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, bytes, contents ? (void *)contents : zeros, &status);
    check_cl(status, "allocating on the device");
    free(zeros);
    return buffer;
}

/* An argument of a kernel, by its address; a buffer that is NULL is an address that is NULL. */
typedef struct argument {
    size_t size;
    const void *value;
} argument;
#define ARGUMENT(variable) {sizeof(variable), &(variable)}
#define BIND(program, name, ...) \
    bind(program, name, sizeof((const argument[]){__VA_ARGS__}) / sizeof(argument), (const argument[]){__VA_ARGS__})

static cl_kernel bind(cl_program program, const char *name, size_t n, const argument *arguments) {
    cl_int status;
    cl_kernel kernel = clCreateKernel(program, name, &status);
    check_cl(status, name);
    for (size_t i = 0; i < n; i++) check_cl(clSetKernelArg(kernel, (cl_uint)i, arguments[i].size, arguments[i].value), name);
    return kernel;
}

/* Launches a kernel, and returns its event. */
static cl_event launch(cl_kernel kernel, size_t n_threads) {
    const size_t global[] = {n_threads, N_PLACES}, local[] = {N_THREADS, 1};
    cl_event event;
    check_cl(clEnqueueNDRangeKernel(queue, kernel, 2, NULL, global, local, 0, NULL, &event), "launching a kernel");
    return event;
}

static void upload(cl_mem buffer, size_t offset, size_t bytes, const void *contents) {
    check_cl(clEnqueueWriteBuffer(queue, buffer, CL_TRUE, offset, bytes, contents, 0, NULL, NULL), "writing to the device");
}

/* The seconds that a launch took; releases its event. */
static double seconds(cl_event event) {
    cl_ulong start = 0, end = 0;
    check_cl(clWaitForEvents(1, &event), "waiting for a kernel");
    clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof start, &start, NULL);
    clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end, NULL);
    clReleaseEvent(event);
    return (double)(end - start) * 1e-9;
}

/* Serves all requests, first come, first served. Prints the times. */
static void serve(const char *folder, const ds_device_row *table, size_t n_rows, size_t n_slots, bool has_float64_sums) {
    const cl_program program = build(folder, has_float64_sums);
    const size_t item_bytes = N_ELEMENTS * sizeof(float), batch_bytes = N_PLACES * item_bytes;
    const cl_uint n_records = (cl_uint)n_rows, n_elements = N_ELEMENTS;
    const cl_int has_variance = 0;
    cl_mem none = NULL, records = make_buffer(n_rows * sizeof *table, table), rows = make_buffer(N_PLACES * 4, NULL);
    cl_mem counters = make_buffer(N_PLACES * 4, NULL), sample = make_buffer(batch_bytes, NULL),
           input = make_buffer(batch_bytes, NULL);
    cl_mem output = make_buffer(batch_bytes, NULL), noise = make_buffer(batch_bytes, NULL);
    cl_mem slots = make_buffer((n_slots ? n_slots : 1) * batch_bytes, NULL), thresholds = make_buffer(N_PLACES * 8, NULL);
    cl_mem workspace = make_buffer((size_t)N_PLACES * THRESHOLD_WORDS * 4, NULL), timesteps = make_buffer(N_PLACES * 4, NULL);

    /* The arguments don't change, except for the number of a threshold's launch: a device could replay these launches as one. */
    const cl_kernel begin = BIND(program, "ds_device_input", ARGUMENT(records), ARGUMENT(n_records), ARGUMENT(rows),
                                 ARGUMENT(n_elements), ARGUMENT(sample), ARGUMENT(input), ARGUMENT(timesteps), ARGUMENT(none));
    const cl_kernel predict = BIND(program, "model", ARGUMENT(input), ARGUMENT(timesteps), ARGUMENT(output));
    cl_kernel threshold[THRESHOLD_LAUNCHES];
    for (cl_uint k = 0; k < THRESHOLD_LAUNCHES; k++)
        threshold[k] = BIND(program, "ds_device_threshold", ARGUMENT(records), ARGUMENT(n_records), ARGUMENT(rows),
                            ARGUMENT(n_elements), ARGUMENT(k), ARGUMENT(output), ARGUMENT(none), ARGUMENT(none),
                            ARGUMENT(has_variance), ARGUMENT(sample), ARGUMENT(noise), ARGUMENT(workspace), ARGUMENT(thresholds));
    const cl_kernel step = BIND(program, "ds_device_step", ARGUMENT(records), ARGUMENT(n_records), ARGUMENT(rows),
                                ARGUMENT(n_elements), ARGUMENT(counters), ARGUMENT(output), ARGUMENT(none), ARGUMENT(none),
                                ARGUMENT(has_variance), ARGUMENT(sample), ARGUMENT(noise), ARGUMENT(slots), ARGUMENT(thresholds),
                                ARGUMENT(sample), ARGUMENT(none), ARGUMENT(input), ARGUMENT(timesteps), ARGUMENT(none));

    request *places[N_PLACES] = {NULL};
    int32_t numbers[N_PLACES] = {0}; /* the host follows its copy of the table */
    ds_noise sources[N_PLACES];
    float *drawn = allocate(N_ELEMENTS, sizeof *drawn);
    size_t next_request = 0, n_ticks = 0, n_steps = 0;
    double step_seconds = 0, threshold_seconds = 0;
    for (;;) {
        bool has_begun = false, is_busy = false;
        for (size_t place = 0; place < N_PLACES; place++) {
            if (!places[place] && next_request < N_REQUESTS) {
                request *r = places[place] = &requests[next_request];
                numbers[place] = r->first_row;
                check(ds_noise_create(DS_NOISE_TORCH_CPU, 100 + next_request++, &sources[place]));
                upload(sample, place * item_bytes, item_bytes, r->start);
                upload(rows, place * 4, 4, &numbers[place]);
                has_begun = true;
            }
            is_busy |= places[place] != NULL;
        }
        if (!is_busy) break;
        if (has_begun) clReleaseEvent(launch(begin, N_ELEMENTS / 4));
        for (size_t place = 0; place < N_PLACES; place++) {
            const size_t n_draws = (size_t)table[numbers[place]].n_noise_draws;
            if (!places[place] || n_draws == 0) continue;
            draw(sources[place], n_draws, drawn);
            upload(noise, place * item_bytes, item_bytes, drawn);
        }
        clReleaseEvent(launch(predict, N_ELEMENTS));
        for (size_t k = 0; k < THRESHOLD_LAUNCHES; k++) threshold_seconds += seconds(launch(threshold[k], N_ELEMENTS / 4));
        step_seconds += seconds(launch(step, N_ELEMENTS / 4));
        n_ticks++;
        for (size_t place = 0; place < N_PLACES; place++) {
            if (!places[place]) continue;
            n_steps++;
            numbers[place] = table[numbers[place]].next;
            if (numbers[place] != 0) continue;
            check_cl(
                clEnqueueReadBuffer(queue, sample, CL_TRUE, place * item_bytes, item_bytes, places[place]->sample, 0, NULL, NULL),
                "reading a sample");
            check(ds_noise_free(sources[place]));
            places[place] = NULL;
        }
    }
    printf("%s sums: %d requests, %zu steps in %zu ticks of %d places; a tick's step takes %.3f ms, its thresholds %.3f ms\n",
           has_float64_sums ? "float64" : "float32", N_REQUESTS, n_steps, n_ticks, N_PLACES, step_seconds / (double)n_ticks * 1e3,
           threshold_seconds / (double)n_ticks * 1e3);

    free(drawn);
    const cl_mem buffers[] = {records, rows, counters, sample, input, output, noise, slots, thresholds, workspace, timesteps};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) clReleaseMemObject(buffers[i]);
    const cl_kernel kernels[] = {begin, predict, threshold[0], threshold[1], step};
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) clReleaseKernel(kernels[i]);
    clReleaseProgram(program);
}

/* Compares the requests' samples with runs alone; returns how many differ by more than is allowed. */
static size_t compare(bool has_float64_sums) {
    float *alone = allocate(N_ELEMENTS, sizeof *alone);
    size_t n_wrong = 0, n_equal = 0;
    double worst = 0;
    for (size_t i = 0; i < N_REQUESTS; i++) {
        double greatest = 0, difference = 0;
        run_alone(&requests[i], 100 + i, alone);
        for (size_t k = 0; k < N_ELEMENTS; k++) {
            greatest = fmax(greatest, fabs(alone[k]));
            const double apart = fabs((double)requests[i].sample[k] - alone[k]);
            difference = apart <= difference ? difference : apart; /* NaN, too */
        }
        const bool is_equal = memcmp(requests[i].sample, alone, N_ELEMENTS * sizeof *alone) == 0;
        const bool is_near = difference <= greatest * 0x1p-18;
        n_equal += is_equal;
        worst = fmax(worst, difference / greatest);
        if (is_equal || (!has_float64_sums && is_near)) continue;
        printf("request %zu, %s: the sample differs by %.3g, with elements up to %.3g\n", i, requests[i].scheduler, difference,
               greatest);
        n_wrong++;
    }
    printf("%zu of %d samples have the bits of a run alone on the host; the greatest difference is %.2g of the greatest element\n",
           n_equal, N_REQUESTS, worst);
    free(alone);
    return n_wrong;
}

int main(int argc, char **argv) {
    if (argc > 2) fail("usage: %s [FOLDER]", argv[0]);
    const uint32_t version = ds_version(), needed = DS_VERSION;
    if (version / 10000 != needed / 10000 || version < needed)
        fail("the library has version %u.%u.%u, but this program was built for %d.%d.%d", version / 10000, version / 100 % 100,
             version % 100, DS_VERSION_MAJOR, DS_VERSION_MINOR, DS_VERSION_PATCH);
    open_device();
    size_t n_rows, n_slots, n_wrong = 0;
    ds_device_row *table = plan_requests(&n_rows, &n_slots);
    printf("table: %zu records of %d requests\n", n_rows, N_REQUESTS);
    for (int has_float64_sums = has_float64(); has_float64_sums >= 0; has_float64_sums--) {
        serve(argc > 1 ? argv[1] : INCLUDE, table, n_rows, n_slots, has_float64_sums);
        n_wrong += compare(has_float64_sums);
    }
    for (size_t i = 0; i < N_REQUESTS; i++) {
        check(ds_scheduler_free(requests[i].plan));
        free(requests[i].start);
        free(requests[i].sample);
    }
    free(table);
    clReleaseCommandQueue(queue);
    clReleaseContext(context);
    printf("%s\n", n_wrong ? "some samples differ" : "every request got its sample");
    return n_wrong ? EXIT_FAILURE : EXIT_SUCCESS;
}
