// SPDX-License-Identifier: Apache-2.0

/*
 * The module diffusion_scheduling._quick: the usual step of a Python scheduler, in C.
 *
 * A step of few elements takes the library about a tenth of a microsecond, but Python's interpreter many times as long: it compares
 * the watched attributes, looks up the row, finds the addresses of up to nine tensors, and updates the attributes. The
 * plain version of all this is in diffusion_scheduling/_core.py, which says what each attribute means. A QuickStep does the same for
 * one plan and tensors of one form. It leaves whatever is unusual to the plain version, before anything has changed.
 *
 * Without this module, the plain version takes all steps, with equal results. The module only uses Python's stable ABI.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdbool.h>
#include <string.h>

#include "diffusion_scheduling.h"

/* The names of attributes and methods. */
#define NAMES(USE)      \
    USE(_age)           \
    USE(_draw)          \
    USE(_general_run)   \
    USE(_longest)       \
    USE(_number)        \
    USE(_oldest)        \
    USE(_remember)      \
    USE(_repeated)      \
    USE(_step)          \
    USE(_step_index)    \
    USE(_version)       \
    USE(attribute_row)  \
    USE(attribute_rows) \
    USE(prepare)        \
    USE(quick)          \
    USE(requires_grad)  \
    USE(row_at)
#define DECLARE(name) static PyObject *name_##name;
NAMES(DECLARE)

/* ---- Tensors */

/* The parts of DLPack 1 (github.com/dmlc/dlpack) that steps use: a view of a tensor's memory, and a type's functions for views. */
enum { DL_HOST = 1, DL_FLOAT = 2, DL_BFLOAT = 4 };

typedef struct {
    void *data;
    int32_t device_type, device_number;
    int32_t rank;
    uint8_t type_code, n_bits;
    uint16_t n_lanes;
    int64_t *shape;
    int64_t *strides; /* in elements; NULL: those of C order */
    uint64_t byte_offset;
} DLView;

typedef struct {
    uint32_t major, minor;
    void *previous, *unused[3];
    int (*view)(void *object, DLView *view); /* NULL: there are no views */
} DLExchange;

/* The element type and the shape of a QuickStep's tensors. */
typedef struct {
    ds_element_type element_type;
    size_t rank;
    int64_t shape[DS_MAX_RANK];
} Form;

typedef ds_status (*RowStep)(const ds_prepared_row *row, const ds_tensor *model_output, const ds_tensor *sample,
                             const ds_tensor *noise, const ds_tensor *slots, size_t n_slots, const ds_tensor *stores,
                             const ds_tensor *prev_sample, const ds_tensor *pred_original_sample, unsigned max_threads);

typedef struct {
    PyObject object;
    PyObject *arguments; /* the constructor's, a tuple that owns the objects below */

    /* A plan, its rows and timesteps, and the values of the watched attributes for which it has been made. `counted` has pairs of a
     * value and the number of writes to it at that time. */
    PyObject *plan, *rows, *timesteps, *watched, *seen, *counted;
    /* The options of steps for which the plan is made, and a dictionary of plans for others. */
    PyObject *unset, *plans;
    /* The attribute that counts steps, the attribute with the list of kept tensors (None: there is none), and the end of rows' keys. */
    PyObject *counter, *history, *is_sampled;
    int is_ordered;       /* whether steps are those of a run, in order; otherwise they may be at any timestep */
    int lists_end;        /* whether the last timestep is only the end of the run */
    int checks_timesteps; /* whether a step's timestep must be the next of the run */

    PyObject *make, *make_arguments; /* makes an uninitialised tensor like the sample */
    PyObject *records_gradients;     /* whether operations on tensors record gradients; None: they never do */
    PyObject *keep;                  /* a tensor's copy, if the caller may overwrite the tensor */
    PyObject *make_error;            /* the exception for a status */
    int has_report;
    const unsigned *max_threads;
    RowStep row_step;

    PyTypeObject *tensor_type;
    const DLExchange *exchange; /* NULL: tensors have Python's buffer protocol */
    Form model_output, sample;
    bool is_large; /* whether a step takes so long that other threads of Python should run meanwhile */
} QuickStep;

static bool is_in_c_order(const DLView *view) {
    int64_t stride = 1;
    for (int32_t axis = view->rank - 1; view->strides && axis >= 0; axis--) {
        if (view->shape[axis] != 1 && view->strides[axis] != stride) return false;
        stride *= view->shape[axis];
    }
    return true;
}

static bool read_exchanged(const DLExchange *exchange, PyObject *tensor, Form *form, void **data) {
    DLView view;
    if (exchange->view(tensor, &view) || view.device_type != DL_HOST) return false;
    if (!view.data || view.n_lanes != 1 || view.rank > DS_MAX_RANK || !is_in_c_order(&view)) return false;
    switch (view.type_code << 8 | view.n_bits) {
    case DL_FLOAT << 8 | 16: form->element_type = DS_FLOAT16; break;
    case DL_FLOAT << 8 | 32: form->element_type = DS_FLOAT32; break;
    case DL_FLOAT << 8 | 64: form->element_type = DS_FLOAT64; break;
    case DL_BFLOAT << 8 | 16: form->element_type = DS_BFLOAT16; break;
    default: return false;
    }
    form->rank = (size_t)view.rank;
    memcpy(form->shape, view.shape, form->rank * sizeof(int64_t));
    *data = (char *)view.data + view.byte_offset;
    return true;
}

static bool read_buffer(PyObject *array, bool is_written, Form *form, void **data) {
    // Arrays that aren't in C order have no buffer without strides.
    Py_buffer view;
    if (PyObject_GetBuffer(array, &view, PyBUF_ND | PyBUF_FORMAT | (is_written ? PyBUF_WRITABLE : 0))) return false;
    const char *format = view.format ? view.format : "";
    bool is_known = format[0] && !format[1] && view.ndim <= DS_MAX_RANK;
    switch (format[0]) {
    case 'e': form->element_type = DS_FLOAT16; break;
    case 'f': form->element_type = DS_FLOAT32; break;
    case 'd': form->element_type = DS_FLOAT64; break;
    default: is_known = false;
    }
    form->rank = is_known ? (size_t)view.ndim : 0;
    for (size_t axis = 0; axis < form->rank; axis++) form->shape[axis] = view.shape[axis];
    *data = view.buf;
    PyBuffer_Release(&view);
    return is_known;
}

/* Writes the form and the address of a tensor that the library takes as it is. Returns false for any other. */
static bool read_tensor(const QuickStep *self, PyObject *tensor, bool is_written, Form *form, void **data) {
    if (Py_TYPE(tensor) != self->tensor_type) return false; // An object of a derived class may be anything.
    return self->exchange ? read_exchanged(self->exchange, tensor, form, data) : read_buffer(tensor, is_written, form, data);
}

/* ---- Calls */

/*
 * One call of a method.
 *
 * The functions below return NULL, −1 or false if something is unusual. There may be an exception then, which says no more.
 */
typedef struct {
    const QuickStep *quick;
    /* The arguments; None if left out. */
    PyObject *scheduler, *model_output, *timestep, *sample, *options, *generator, *noise, *out;
    PyObject *state;                  /* the scheduler's attributes */
    PyObject *plan, *row, *row_parts; /* of the step; row_parts is StepRow.quick */
    PyObject *index;                  /* the number of the step, for steps in order */
    PyObject *slots[DS_MAX_SLOTS];    /* the tensors that the row reads */
    int n_slots;
    bool records_gradients;
    PyObject *results, *stored; /* tuples or lists of the results, and of the tensors that the row stores */
    PyObject *held[64];         /* the references that the call owns */
    int n_held;
} Call;

/* Makes a call the owner of a reference, or of NULL. */
static PyObject *hold(Call *call, PyObject *reference) {
    if (reference && call->n_held == (int)(sizeof call->held / sizeof *call->held)) {
        Py_DECREF(reference);
        return NULL;
    }
    if (reference) call->held[call->n_held++] = reference;
    return reference;
}

static PyObject *attribute(Call *call, PyObject *object, PyObject *name) {
    return object ? hold(call, PyObject_GetAttr(object, name)) : NULL;
}

static Py_ssize_t number(PyObject *object) { return object && PyLong_Check(object) ? PyLong_AsSsize_t(object) : -1; }

/* The value of a scheduler's own attribute. */
static PyObject *own(const Call *call, PyObject *name) { return PyDict_GetItemWithError(call->state, name); }

/* Whether an exception must reach the caller, such as KeyboardInterrupt. Clears any other exception. */
static bool is_interrupted(void) {
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) return true;
    PyErr_Clear();
    return false;
}

static PyObject *end(Call *call, PyObject *result) {
    while (call->n_held > 0) Py_DECREF(call->held[--call->n_held]);
    return result;
}

/* ---- Rows */

/* The order in StepRow.quick, which ends with the owner of the memory at the address. */
typedef enum { ADDRESS, READS, STORES, SOURCES, DRAWS, KEEPS, IS_PUSH, IS_WEIGHTED } RowPart;

static PyObject *row_part(const Call *call, RowPart part) { return PyTuple_GetItem(call->row_parts, part); }

/* Makes `row` the row of a call's step, and prepares it if there is a plan. */
static bool adopt_row(Call *call, PyObject *row) {
    call->row = hold(call, Py_XNewRef(row));
    call->row_parts = attribute(call, call->row, name_quick);
    if (call->row_parts == Py_None && call->plan) {
        hold(call, PyObject_CallMethodObjArgs(row, name_prepare, call->plan, NULL));
        call->row_parts = attribute(call, call->row, name_quick);
    }
    return call->row_parts && call->row_parts != Py_None;
}

/* Reads the numbers of the slots that the row reads. Returns how many there are. */
static int read_places(const Call *call, size_t places[DS_MAX_SLOTS]) {
    PyObject *reads = row_part(call, READS);
    const int count = PyList_Check(reads) && PyList_Size(reads) <= DS_MAX_SLOTS ? (int)PyList_Size(reads) : -1;
    for (int i = 0; i < count; i++) places[i] = (size_t)number(PyList_GetItem(reads, i));
    return count;
}

/* Makes `view` that of a tensor with a form. Returns false for any other. */
static bool find(const QuickStep *self, PyObject *tensor, bool is_written, const Form *form, ds_tensor *view) {
    Form found;
    if (!read_tensor(self, tensor, is_written, &found, &view->data)) return false;
    view->element_type = form->element_type;
    view->rank = form->rank;
    view->shape = form->shape;
    return found.element_type == form->element_type && found.rank == form->rank &&
           memcmp(found.shape, form->shape, form->rank * sizeof(int64_t)) == 0;
}

/* `find` for an input. Returns false also for a tensor that takes part in a differentiation. */
static bool find_input(const Call *call, PyObject *tensor, const Form *form, ds_tensor *view) {
    if (!find(call->quick, tensor, false, form, view)) return false;
    if (!call->records_gradients) return true;
    PyObject *requires_grad = PyObject_GetAttr(tensor, name_requires_grad);
    Py_XDECREF(requires_grad);
    return requires_grad == Py_False;
}

/* Makes a tensor like the sample. */
static PyObject *make(Call *call, ds_tensor *view) {
    const QuickStep *self = call->quick;
    PyObject *made = hold(call, PyObject_CallObject(self->make, self->make_arguments));
    return made && find(self, made, true, &self->sample, view) ? made : NULL;
}

/* Takes the step by the library. Returns 1, or 0 if it is unusual, or −1 with an exception if the library refuses it. */
static int run(Call *call) {
    const QuickStep *self = call->quick;
    ds_tensor e, x, z, y, p, slots[DS_MAX_SLOTS], stores[DS_MAX_STORES];
    size_t places[DS_MAX_SLOTS];
    const int n_reads = read_places(call, places);
    const Py_ssize_t n_stores = PyList_Size(row_part(call, STORES));
    const ds_prepared_row *prepared = PyLong_AsVoidPtr(row_part(call, ADDRESS));
    if (!prepared || n_reads != call->n_slots || n_stores < 0 || n_stores > DS_MAX_STORES) return 0;

    if (self->records_gradients != Py_None) {
        PyObject *answer = hold(call, PyObject_CallObject(self->records_gradients, NULL));
        if (!answer) return 0;
        call->records_gradients = answer == Py_True;
    }
    if (!find_input(call, call->model_output, &self->model_output, &e)) return 0;
    if (!find_input(call, call->sample, &self->sample, &x)) return 0;
    if (call->noise != Py_None && !find_input(call, call->noise, &self->sample, &z)) return 0;
    for (int i = 0; n_reads && i < DS_MAX_SLOTS; i++) slots[i] = x; // The library looks at no slot that the row doesn't read.
    for (int i = 0; i < n_reads; i++) {
        if (places[i] >= DS_MAX_SLOTS || !find_input(call, call->slots[i], &self->sample, &slots[places[i]])) return 0;
    }
    PyObject *next = call->out, *report = NULL, *kept[DS_MAX_STORES] = {0};
    if (next == Py_None ? !(next = make(call, &y)) : !find(self, next, true, &self->sample, &y)) return 0;
    if (self->has_report && !(report = make(call, &p))) return 0;
    for (Py_ssize_t i = 0; i < n_stores; i++) {
        if (!(kept[i] = make(call, &stores[i]))) return 0;
    }

    // Letting other threads in takes as long as a step of a few thousand elements.
    PyThreadState *thread = self->is_large ? PyEval_SaveThread() : NULL;
    const ds_status status =
        self->row_step(prepared, &e, &x, call->noise == Py_None ? NULL : &z, n_reads ? slots : NULL, n_reads ? DS_MAX_SLOTS : 0,
                       n_stores ? stores : NULL, &y, report ? &p : NULL, *self->max_threads);
    if (thread) PyEval_RestoreThread(thread);
    if (status) {
        PyObject *error = hold(call, PyObject_CallFunction(self->make_error, "i", (int)status));
        if (error) PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        return -1;
    }
    call->results = hold(call, PyTuple_Pack(report ? 2 : 1, next, report));
    call->stored = hold(call, PyTuple_Pack(n_stores, kept[0], kept[1]));
    return call->results && call->stored ? 1 : -1;
}

/* Takes the step by the library, or else by the scheduler's _general_run. False: there is an exception. */
static bool run_or_convert(Call *call) {
    const int outcome = run(call);
    if (outcome) return outcome > 0;
    PyErr_Clear();
    PyObject *slots = hold(call, PyList_New(0));
    for (int i = 0; slots && i < call->n_slots; i++) {
        if (PyList_Append(slots, call->slots[i])) return false;
    }
    if (!slots) return false;
    PyObject *pair = hold(call, PyObject_CallMethodObjArgs(call->scheduler, name__general_run, call->plan, call->row,
                                                           call->model_output, call->sample, call->noise, slots, call->out, NULL));
    if (!pair) return false;
    call->results = PyTuple_GetItem(pair, 0);
    call->stored = PyTuple_GetItem(pair, 1);
    return call->results && call->stored;
}

/* ---- Parts of all steps */

/* Whether the watched attributes are those for which the plan has been made. */
static bool is_current(Call *call) {
    const QuickStep *self = call->quick;
    for (Py_ssize_t i = PyTuple_Size(self->watched); i-- > 0;) {
        if (own(call, PyTuple_GetItem(self->watched, i)) != PyTuple_GetItem(self->seen, i)) return false;
    }
    for (Py_ssize_t i = PyTuple_Size(self->counted); i-- > 0;) {
        PyObject *pair = PyTuple_GetItem(self->counted, i), *count = PyObject_GetAttr(PyTuple_GetItem(pair, 0), name__version);
        const bool is_same = count && PyObject_RichCompareBool(count, PyTuple_GetItem(pair, 1), Py_EQ) == 1;
        Py_XDECREF(count);
        if (!is_same) return false;
    }
    return true;
}

/* Begins a step: reads the first eight arguments, and the scheduler's attributes. */
static bool begin(Call *call, const QuickStep *self, PyObject *const *arguments) {
    call->quick = self;
    PyObject **const targets[] = {&call->scheduler, &call->model_output, &call->timestep, &call->sample,
                                  &call->options,   &call->generator,    &call->noise,    &call->out};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) *targets[i] = arguments[i];
    call->state = hold(call, PyObject_GenericGetDict(call->scheduler, NULL));
    return call->state && is_current(call);
}

/* Makes `noise` the noise that the row reads: the caller's, or drawn by the scheduler. False: there is an exception. */
static bool draw(Call *call) {
    PyObject *draws = row_part(call, DRAWS);
    const Py_ssize_t count = number(draws);
    if (count < 0) return false;
    if (count == 0) {
        call->noise = Py_None;
    } else if (call->noise == Py_None) {
        call->noise = hold(call, PyObject_CallMethodObjArgs(call->scheduler, name__draw, draws, call->generator, Py_None,
                                                            call->model_output, call->sample, NULL));
    }
    return call->noise;
}

static bool takes(Py_ssize_t n_given, Py_ssize_t count) {
    if (n_given == count) return true;
    PyErr_Format(PyExc_TypeError, "%zd arguments are given, but must be %zd", n_given, count);
    return false;
}

/* Ends a call whose step is unusual: the scheduler's _step takes it. All arguments but the first are those of _step. */
static PyObject *end_plainly(Call *call, PyObject *const *arguments, Py_ssize_t n_arguments) {
    if (is_interrupted()) return end(call, NULL);
    PyObject *step = attribute(call, arguments[0], name__step), *others = hold(call, PyTuple_New(n_arguments - 1));
    for (Py_ssize_t i = 1; others && i < n_arguments; i++) PyTuple_SetItem(others, i - 1, Py_NewRef(arguments[i]));
    return end(call, step && others ? PyObject_CallObject(step, others) : NULL);
}

/* ---- Steps in order */

/* The number of the run's next step. */
static PyObject *next_index(const Call *call) {
    const QuickStep *self = call->quick;
    PyObject *index = own(call, name__step_index), *repeated = own(call, name__repeated);
    if (repeated && repeated != Py_None) return NULL;
    const Py_ssize_t place = number(index);
    if (place < 0 || place >= PyList_Size(self->timesteps) - self->lists_end) return NULL;
    if (!self->checks_timesteps) return index;
    return PyObject_RichCompareBool(call->timestep, PyList_GetItem(self->timesteps, place), Py_EQ) == 1 ? index : NULL;
}

/* The plan's row of step `index`. */
static PyObject *row_in_order(Call *call, PyObject *index) {
    const QuickStep *self = call->quick;
    PyObject *age = self->counter == Py_None ? hold(call, PyObject_CallMethodObjArgs(call->scheduler, name__age, call->plan, NULL))
                                             : own(call, self->counter);
    if (number(age) > number(index)) age = index;
    PyObject *key = age ? hold(call, PyTuple_Pack(3, index, age, self->is_sampled)) : NULL;
    PyObject *rows = call->plan == self->plan ? self->rows : attribute(call, call->plan, name_attribute_rows);
    PyObject *row = key && rows ? PyDict_GetItemWithError(rows, key) : NULL;
    if (!key || row || PyErr_Occurred()) return row;
    return hold(call, PyObject_CallMethodObjArgs(call->plan, name_attribute_row, index, age, self->is_sampled, NULL));
}

/* Finds the tensors that the row reads, in the scheduler's attributes. */
static bool find_slots(Call *call) {
    PyObject *sources = row_part(call, SOURCES);
    const Py_ssize_t count = PyList_Check(sources) ? PyList_Size(sources) : -1;
    if (count > DS_MAX_SLOTS) return false;
    while (call->n_slots < count) {
        PyObject *source = PyList_GetItem(sources, call->n_slots), *place = PyTuple_GetItem(source, 1);
        PyObject *kept = own(call, PyTuple_GetItem(source, 0));
        if (kept && place != Py_None) {
            // The places in a list count from its end.
            const Py_ssize_t from_start = PyList_Check(kept) ? PyList_Size(kept) + PyLong_AsSsize_t(place) : -1;
            kept = from_start < 0 ? NULL : PyList_GetItem(kept, from_start);
        }
        if (!kept || kept == Py_None || PyLong_Check(kept)) return false;
        call->slots[call->n_slots++] = hold(call, Py_NewRef(kept));
    }
    return count >= 0;
}

/* Ordered._remember, by itself only for rows that append one tensor to the history. False: there is an exception. */
static bool remember(Call *call) {
    const QuickStep *self = call->quick;
    const bool is_push = row_part(call, IS_PUSH) == Py_True;
    PyObject *history = is_push ? own(call, self->history) : NULL, *count = is_push ? own(call, self->counter) : NULL;
    PyObject *longest = own(call, name__longest), *oldest = own(call, name__oldest);
    if (!history || !PyList_Check(history) || !count || !longest || !oldest) {
        return hold(call, PyObject_CallMethodObjArgs(call->scheduler, name__remember, call->row, call->stored, call->sample, NULL));
    }
    PyObject *newest = hold(call, PySequence_GetItem(call->stored, 0));
    if (!newest || PyList_Append(history, newest)) return false;
    if (PyList_Size(history) > number(longest) && PyList_SetSlice(history, 0, 1, NULL)) return false;
    const int is_counted = PyObject_RichCompareBool(count, oldest, Py_LT);
    if (is_counted <= 0) return is_counted == 0;
    PyObject *later = hold(call, PyLong_FromSsize_t(number(count) + 1));
    return later && PyDict_SetItem(call->state, self->counter, later) == 0;
}

/* Finds the row of the run's next step, and its slots. Returns false, with nothing changed, if the step is unusual. */
static bool find_next_step(Call *call) {
    const QuickStep *self = call->quick;
    const int is_unset = PyObject_RichCompareBool(call->options, self->unset, Py_EQ);
    PyObject *plan = is_unset == 1 ? self->plan : is_unset == 0 ? PyDict_GetItemWithError(self->plans, call->options) : NULL;
    call->plan = hold(call, Py_XNewRef(plan)); // A step with other options may empty the dictionary.
    call->index = call->plan ? hold(call, Py_XNewRef(next_index(call))) : NULL;
    if (!call->index || !adopt_row(call, row_in_order(call, call->index))) return false;
    return row_part(call, IS_WEIGHTED) != Py_True && find_slots(call);
}

/* Counts a step that has been taken, and keeps its tensors. False: there is an exception. */
static bool finish_in_order(Call *call) {
    PyObject *next = hold(call, PyLong_FromSsize_t(number(call->index) + 1));
    return next && remember(call) && PyDict_SetItem(call->state, name__step_index, next) == 0;
}

/* ---- Steps at any timestep */

/* Finds the row of the step at the timestep, and its slots among the caller's. Returns false if the step is unusual. */
static bool find_step_at_timestep(Call *call, PyObject *slots) {
    const QuickStep *self = call->quick;
    // The plain version refuses a generator beside a noise.
    if (call->generator != Py_None && call->noise != Py_None) return false;
    call->plan = self->plan;
    PyObject *at = hold(call, PyObject_CallMethodObjArgs(call->scheduler, name__number, call->timestep, NULL));
    PyObject *rows = at ? hold(call, Py_XNewRef(PyDict_GetItemWithError(self->rows, call->options))) : NULL;
    PyObject *row = rows ? PyDict_GetItemWithError(rows, at) : NULL;
    if (at && !row && !PyErr_Occurred()) {
        row = hold(call, PyObject_CallMethodObjArgs(call->plan, name_row_at, at, call->options, NULL));
    }
    size_t places[DS_MAX_SLOTS];
    const int n_reads = adopt_row(call, row) ? read_places(call, places) : -1;
    for (; call->n_slots < n_reads; call->n_slots++) {
        call->slots[call->n_slots] = hold(call, PySequence_GetItem(slots, (Py_ssize_t)places[call->n_slots]));
        if (!call->slots[call->n_slots]) return false;
    }
    return n_reads >= 0;
}

/* ---- Steps */

PyDoc_STRVAR(step_text, "step($self, scheduler, model_output, timestep, sample, options, generator, noise, out, /, *slots)\n--\n\n"
                        "The scheduler's _step. `slots`, one argument, belongs to steps at any timestep.");

static PyObject *step(PyObject *object, PyObject *const *arguments, Py_ssize_t n_arguments) {
    const QuickStep *self = (QuickStep *)object;
    Call call = {0};
    if (!takes(n_arguments, self->is_ordered ? 8 : 9)) return NULL;
    const bool is_usual =
        begin(&call, self, arguments) && (self->is_ordered ? find_next_step(&call) : find_step_at_timestep(&call, arguments[8]));
    if (!is_usual) return end_plainly(&call, arguments, n_arguments);

    if (!draw(&call)) return end(&call, NULL);
    if (PyObject_IsTrue(row_part(&call, KEEPS))) {
        call.sample = hold(&call, PyObject_CallFunctionObjArgs(self->keep, call.sample, NULL));
        if (!call.sample) return end(&call, NULL);
    }
    const bool is_taken = run_or_convert(&call) && (!self->is_ordered || finish_in_order(&call));
    return end(&call, is_taken ? Py_NewRef(call.results) : NULL);
}

/* ---- Rows by themselves */

PyDoc_STRVAR(run_row_text, "run_row($self, row, model_output, sample, noise, slots, out, /)\n--\n\n"
                           "Core._general_run for tensors that the library takes as they are; None for others.");

static PyObject *run_row(PyObject *object, PyObject *const *arguments, Py_ssize_t n_arguments) {
    const QuickStep *self = (QuickStep *)object;
    Call call = {0};
    if (!takes(n_arguments, 6)) return NULL;
    call.quick = self;
    if (!adopt_row(&call, arguments[0])) return end(&call, is_interrupted() ? NULL : Py_NewRef(Py_None));
    call.model_output = arguments[1];
    call.sample = arguments[2];
    call.noise = arguments[3];
    call.out = arguments[5];
    const Py_ssize_t n_slots = PySequence_Size(arguments[4]);
    while (call.n_slots < n_slots && n_slots <= DS_MAX_SLOTS) {
        call.slots[call.n_slots] = hold(&call, PySequence_GetItem(arguments[4], call.n_slots));
        if (!call.slots[call.n_slots++]) return end(&call, is_interrupted() ? NULL : Py_NewRef(Py_None));
    }
    const int outcome = run(&call);
    if (outcome == 0) return end(&call, is_interrupted() ? NULL : Py_NewRef(Py_None));
    return end(&call, outcome > 0 ? PyTuple_Pack(2, call.results, call.stored) : NULL);
}

/* ---- The type */

PyDoc_STRVAR(
    quick_step_text,
    "QuickStep(plan, rows, timesteps, watched, seen, counted, unset, plans, order, form, keep, make_error, has_report,\n"
    "max_threads, row_step, model_output, sample, /)\n--\n\n"
    "Steps with a plan, and tensors like `model_output` and `sample`.\n\n"
    "order  (is_ordered, counter, history, is_sampled, lists_end, checks_timesteps)\n"
    "form   (tensor_type, exchange, make, make_arguments, records_gradients)\n\n"
    "Raises ValueError for tensors that the library doesn't take as they are, or whose views are of another version of DLPack.");

static PyObject *refuse(QuickStep *self, PyObject *exception, const char *reason) {
    PyErr_Clear();
    PyErr_SetString(exception, reason);
    Py_DECREF(self);
    return NULL;
}

static PyObject *quick_step_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    QuickStep *self = (QuickStep *)PyType_GenericAlloc(type, 0);
    if (!self) return NULL;
    self->arguments = Py_NewRef(arguments);
    PyObject *exchange, *max_threads, *row_step, *model_output, *sample;
    Py_buffer memory;
    void *data;
    if (keywords ||
        !PyArg_ParseTuple(arguments, "OO!O!O!O!O!OO!(pOOOpp)(O!OOO!O)OOpOO!OO", //
                          &self->plan, &PyDict_Type, &self->rows, &PyList_Type, &self->timesteps, &PyTuple_Type, &self->watched,
                          &PyTuple_Type, &self->seen, &PyTuple_Type, &self->counted, &self->unset, &PyDict_Type, &self->plans, //
                          &self->is_ordered, &self->counter, &self->history, &self->is_sampled, &self->lists_end,
                          &self->checks_timesteps, &PyType_Type, &self->tensor_type, &exchange, &self->make, &PyTuple_Type,
                          &self->make_arguments, &self->records_gradients, //
                          &self->keep, &self->make_error, &self->has_report, &max_threads, &PyLong_Type, &row_step, &model_output,
                          &sample)) {
        return refuse(self, PyExc_TypeError, "an argument has the wrong type, or their number isn't 17");
    }
    // The memory of a ctypes number never moves.
    if (PyObject_GetBuffer(max_threads, &memory, PyBUF_SIMPLE)) return refuse(self, PyExc_TypeError, "max_threads has no memory");
    self->max_threads = memory.buf;
    PyBuffer_Release(&memory);
    *(void **)&self->row_step = PyLong_AsVoidPtr(row_step);
    self->exchange = exchange == Py_None ? NULL : PyCapsule_GetPointer(exchange, "dlpack_exchange_api");
    if (PyErr_Occurred() || (self->exchange && (self->exchange->major != 1 || !self->exchange->view))) {
        return refuse(self, PyExc_ValueError, "exchange isn't DLPack's, version 1, with views");
    }
    if (PyTuple_Size(self->watched) != PyTuple_Size(self->seen))
        return refuse(self, PyExc_TypeError, "watched and seen differ in length");
    if (!read_tensor(self, model_output, false, &self->model_output, &data) ||
        !read_tensor(self, sample, false, &self->sample, &data)) {
        return refuse(self, PyExc_ValueError, "the library doesn't take model_output or sample as it is");
    }
    int64_t count = 1;
    for (size_t axis = 0; axis < self->sample.rank; axis++) count *= self->sample.shape[axis];
    // A view doesn't tell a pending negation, as of x.conj().imag. Only with one element is such a tensor in C order.
    if (self->exchange && count == 1) return refuse(self, PyExc_ValueError, "the tensors have one element");
    self->is_large = count >= 4096;
    return (PyObject *)self;
}

/* Like a tuple's, an object's references can't be cleared: other objects of a cycle break it. */
static int quick_step_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((QuickStep *)object)->arguments);
    return 0;
}

static void quick_step_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_XDECREF(((QuickStep *)object)->arguments);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, name##_text}
static PyMethodDef quick_step_methods[] = {METHOD(step), METHOD(run_row), {0}};

static PyType_Slot quick_step_slots[] = {
    {Py_tp_new, quick_step_new},         {Py_tp_dealloc, quick_step_dealloc},  {Py_tp_traverse, quick_step_traverse},
    {Py_tp_methods, quick_step_methods}, {Py_tp_doc, (void *)quick_step_text}, {0},
};

static PyType_Spec quick_step_spec = {
    .name = "diffusion_scheduling._quick.QuickStep",
    .basicsize = sizeof(QuickStep),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = quick_step_slots,
};

static int execute(PyObject *module) {
#define INTERN(name) \
    if (!name_##name && !(name_##name = PyUnicode_InternFromString(#name))) return -1;
    NAMES(INTERN)
    PyObject *type = PyType_FromSpec(&quick_step_spec);
    if (!type) return -1;
    const int status = PyModule_AddObjectRef(module, "QuickStep", type);
    Py_DECREF(type);
    return status;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0}};

static PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_quick",
    .m_doc = "The usual step of a scheduler, in C.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__quick(void) { return PyModuleDef_Init(&module_definition); }
