/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The functions of OpenCL that Tests/c/device_opencl.c calls, for a device that is this processor running CUDA C++: programs are compiled
 * with stand-ins for CUDA's keywords and functions, as C++, and blocks of one thread run one after the other. So the test reaches the CUDA
 * side of device_kernels.h without a GPU, and sanitizers see every access. Races between threads don't show.
 *
 * The environment names the compiler, CLANG, and a folder for programs, CUDA_ON_HOST.
 */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <string>
#include <vector>

static const char prelude[] = R"(
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
struct cuda_index { unsigned x, y; };
static cuda_index threadIdx, blockIdx, blockDim, gridDim;
template <class To, class From> static To cuda_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline void __syncthreads() {}
static inline void __threadfence() {}
static inline unsigned atomicAdd(unsigned *address, unsigned n) { const unsigned old = *address; *address += n; return old; }
static inline unsigned atomicOr(unsigned *address, unsigned bits) { const unsigned old = *address; *address |= bits; return old; }
static inline unsigned __float_as_uint(float x) { return cuda_bits<unsigned>(x); }
static inline float __uint_as_float(unsigned bits) { return cuda_bits<float>(bits); }
static inline long long __double_as_longlong(double x) { return cuda_bits<long long>(x); }
static inline double __longlong_as_double(long long bits) { return cuda_bits<double>(bits); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
#define DS_WIDEN_HALF(bits, value) value = (float)cuda_bits<_Float16>(bits)
#define DS_ROUND_TO_HALF(value, bits) bits = cuda_bits<uint16_t>((_Float16)(value))
using std::exp;
using std::sqrt;
)";

static const char postlude[] = R"(
template <class... T, size_t... I> static void call(void (*kernel)(T...), void *const *values, std::index_sequence<I...>) {
    kernel(*(T *)values[I]...);
}
#define RUN(name, kernel) \
    if (strcmp(name, #kernel) == 0) call(kernel, values, std::make_index_sequence<n_values(kernel)>())
template <class... T> static constexpr size_t n_values(void (*)(T...)) { return sizeof...(T); }
extern "C" void run(const char *name, unsigned n_blocks, unsigned n_items, void *const *values) {
    gridDim = {n_blocks, n_items};
    blockDim = {1, 1};
    for (unsigned item = 0; item < n_items; item++)
        for (unsigned block = 0; block < n_blocks; block++) {
            blockIdx = {block, item};
            RUN(name, ds_device_input);
            RUN(name, ds_device_step);
            RUN(name, ds_device_threshold);
        }
}
)";

struct _cl_mem {
    std::vector<char> bytes;
};
struct _cl_program {
    std::string text;
    void (*run)(const char *, unsigned, unsigned, void *const *);
    std::string log;
};
struct _cl_kernel {
    cl_program program;
    std::string name;
    uint64_t values[32];
};

template <class T> static T *succeed(T *object, cl_int *status) {
    if (status) *status = CL_SUCCESS;
    return object;
}

extern "C" {

cl_int clGetPlatformIDs(cl_uint, cl_platform_id *, cl_uint *count) {
    if (count) *count = 1;
    return CL_SUCCESS;
}
cl_int clGetDeviceIDs(cl_platform_id, cl_device_type, cl_uint, cl_device_id *, cl_uint *) { return CL_SUCCESS; }
cl_int clGetDeviceInfo(cl_device_id, cl_device_info info, size_t size, void *value, size_t *) {
    snprintf(static_cast<char *>(value), size, "%s", info == CL_DEVICE_NAME ? "CUDA C++ on this processor" : "one thread a block");
    return CL_SUCCESS;
}
cl_context clCreateContext(const cl_context_properties *, cl_uint, const cl_device_id *,
                           void(CL_CALLBACK *)(const char *, const void *, size_t, void *), void *, cl_int *status) {
    return succeed<_cl_context>(nullptr, status);
}
cl_command_queue clCreateCommandQueue(cl_context, cl_device_id, cl_command_queue_properties, cl_int *status) {
    return succeed<_cl_command_queue>(nullptr, status);
}
cl_int clReleaseCommandQueue(cl_command_queue) { return CL_SUCCESS; }
cl_int clReleaseContext(cl_context) { return CL_SUCCESS; }

cl_program clCreateProgramWithSource(cl_context, cl_uint n, const char **texts, const size_t *, cl_int *status) {
    auto *program = new _cl_program();
    program->text = prelude;
    for (cl_uint i = 0; i < n; i++) program->text += texts[i];
    program->text += postlude;
    return succeed(program, status);
}
cl_int clBuildProgram(cl_program program, cl_uint, const cl_device_id *, const char *options,
                      void(CL_CALLBACK *)(cl_program, void *), void *) {
    static int count;
    const char *folder = getenv("CUDA_ON_HOST"), *compiler = getenv("CLANG");
    const std::string path = std::string(folder ? folder : ".") + "/program" + std::to_string(count++);
    std::ofstream(path + ".cpp") << program->text;
    const std::string command =
        std::string(compiler ? compiler : "clang") +
        " -std=c++17 -O1 -ffp-contract=off -fsanitize=address,undefined -fno-sanitize-recover=all -fPIC -shared -w " + options +
        " " + path + ".cpp -o " + path + ".so -lm >" + path + ".log 2>&1";
    const int status = system(command.c_str());
    std::ifstream log(path + ".log");
    program->log.assign(std::istreambuf_iterator<char>(log), {});
    if (status != 0) return CL_BUILD_PROGRAM_FAILURE;
    void *library = dlopen((path + ".so").c_str(), RTLD_NOW);
    if (!library) {
        program->log = dlerror();
        return CL_BUILD_PROGRAM_FAILURE;
    }
    program->run = reinterpret_cast<decltype(program->run)>(dlsym(library, "run"));
    return program->run ? CL_SUCCESS : CL_BUILD_PROGRAM_FAILURE;
}
cl_int clGetProgramBuildInfo(cl_program program, cl_device_id, cl_program_build_info, size_t size, void *value, size_t *) {
    snprintf(static_cast<char *>(value), size, "%s", program->log.c_str());
    return CL_SUCCESS;
}
cl_int clReleaseProgram(cl_program program) {
    delete program;
    return CL_SUCCESS;
}
cl_kernel clCreateKernel(cl_program program, const char *name, cl_int *status) {
    return succeed(new _cl_kernel{program, name, {}}, status);
}
cl_int clReleaseKernel(cl_kernel kernel) {
    delete kernel;
    return CL_SUCCESS;
}
cl_int clSetKernelArg(cl_kernel kernel, cl_uint index, size_t size, const void *value) {
    if (size == sizeof(cl_mem)) {
        cl_mem buffer = *static_cast<const cl_mem *>(value);
        kernel->values[index] = reinterpret_cast<uintptr_t>(buffer ? buffer->bytes.data() : nullptr);
    } else {
        memcpy(&kernel->values[index], value, size);
    }
    return CL_SUCCESS;
}
cl_int clEnqueueNDRangeKernel(cl_command_queue, cl_kernel kernel, cl_uint, const size_t *, const size_t *global,
                              const size_t *local, cl_uint, const cl_event *, cl_event *) {
    void *values[32];
    for (int i = 0; i < 32; i++) values[i] = &kernel->values[i];
    kernel->program->run(kernel->name.c_str(), static_cast<unsigned>(global[0] / local[0]), static_cast<unsigned>(global[1]),
                         values);
    return CL_SUCCESS;
}

cl_mem clCreateBuffer(cl_context, cl_mem_flags, size_t bytes, void *, cl_int *status) {
    return succeed(new _cl_mem{std::vector<char>(bytes)}, status);
}
cl_int clReleaseMemObject(cl_mem buffer) {
    delete buffer;
    return CL_SUCCESS;
}
cl_int clEnqueueWriteBuffer(cl_command_queue, cl_mem buffer, cl_bool, size_t offset, size_t bytes, const void *data, cl_uint,
                            const cl_event *, cl_event *) {
    memcpy(buffer->bytes.data() + offset, data, bytes);
    return CL_SUCCESS;
}
cl_int clEnqueueReadBuffer(cl_command_queue, cl_mem buffer, cl_bool, size_t offset, size_t bytes, void *data, cl_uint,
                           const cl_event *, cl_event *) {
    memcpy(data, buffer->bytes.data() + offset, bytes);
    return CL_SUCCESS;
}
}
