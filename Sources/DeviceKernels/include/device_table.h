/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The table of a plan's rows for devices: what a kernel reads there. C, C++, CUDA C++ and OpenCL C share this header.
 *
 * A record is one row of a plan at one age (see docs/PLAN.md), 1,024 bytes; a table is an array of records. `ds_scheduler_device_table`
 * writes one, in Swift `SamplingPlan.deviceTable`; it is uploaded once, and never changes.
 *
 * One 32-bit integer, the number of its record, is all that a run keeps on a device besides its sample and slots: a step reads the
 * record and replaces the number by `next`. Record 0 is that of free places of a batch: its step leaves the sample as it is, and leads to
 * itself, as does the last step of every run.
 *
 * Order   Record 0, then evaluation by evaluation those of its ages 0 to min(evaluation, warm_up): see DS_DEVICE_RECORD. A run begins
 *         at the age 0, at any evaluation where the plan lets runs begin.
 * Joined  Tables of several plans may follow one another in one buffer, so that a batch holds requests of all of them. Each is made with
 *         the number of records before it. Every run ends at the first table's record 0.
 * Bytes   Little-endian, and aligned to 8.
 *
 * A step is, with the sample x, the model output e, noise z and slots s,
 *
 *     p           = clamp( prediction . (x, e, z) )
 *     outputs[k]  = coefficients . (x, e, z, s of reads[0], ..., s of reads[5], p)        all from x and s as they were before
 *
 * summed from left to right. A coefficient of 0 means that the tensor isn't read: it may be missing, or hold an infinity.
 */
#ifndef DS_DEVICE_TABLE_H
#define DS_DEVICE_TABLE_H

#ifdef __OPENCL_C_VERSION__
typedef int ds_device_int;
#ifdef cl_khr_fp64
typedef double ds_device_double;
#else
/* The bits of a double, for devices that have none: their kernels read the members ending in _parts. */
typedef ulong ds_device_double;
#endif
#else
#ifdef __CUDACC_RTC__ /* has no headers */
typedef int ds_device_int;
#else
#include <stdint.h>
/* An integer of 32 bits in every language. */
typedef int32_t ds_device_int;
#endif
/* A float64 number, or its bits where the device has none. */
typedef double ds_device_double;
#endif

/* Coefficients of p, by what they belong to; the last one is 0. */
enum {
    DS_DEVICE_PREDICTION_TERMS = 4, /* of x, e and z */
};

/* Coefficients of an output, by what they belong to. */
enum {
    DS_DEVICE_SAMPLE = 0,       /* x */
    DS_DEVICE_MODEL_OUTPUT = 1, /* e */
    DS_DEVICE_NOISE = 2,        /* z */
    DS_DEVICE_SLOTS = 3,        /* that of the slot reads[0], and five more */
    DS_DEVICE_PREDICTION = 9,   /* p */
    DS_DEVICE_TERMS = 10,       /* the number of coefficients */
};

/* The outputs of a record. */
enum {
    DS_DEVICE_NEXT_SAMPLE = 0, /* the sample after the step */
    DS_DEVICE_STORES = 1,      /* the contents of the slot stores[0] after the step, and of one more */
    DS_DEVICE_REPORT = 3,      /* the predicted clean sample, or what the plan reports instead */
    DS_DEVICE_OUTPUTS = 4,     /* the number of outputs */
};

/* Sizes of a record. */
enum {
    DS_DEVICE_MAX_READS = 6,    /* the most slots that a record reads */
    DS_DEVICE_MAX_STORES = 2,   /* the most slots that a record stores */
    DS_DEVICE_ROW_BYTES = 1024, /* the bytes of a record */
};

/* A record: one row of a plan at one age. */
typedef struct ds_device_row {
    ds_device_double timestep;          /* the timestep that the model gets at the evaluation */
    ds_device_double input_scale;       /* input = input_scale * x */
    ds_device_double clamp_range;       /* for clamp 1: p <- min(max(p, -clamp_range), clamp_range) */
    ds_device_double threshold_ratio;   /* for clamp 2: p <- min(max(p, -s), s) / s with s the quantile of |p| at this ratio, */
    ds_device_double threshold_maximum; /* at least 1, and at most this */
    ds_device_double noise_offset;      /* for noise_factor 2: z <- z exp(noise_offset + noise_slope v) */
    ds_device_double noise_slope;       /* for noise_factor 2 */
    ds_device_int next;                 /* the record of the step after this one */
    ds_device_int clamp;                /* 0: none; 1: a range; 2: a dynamic threshold; as ds_clamp */
    ds_device_int noise_factor;  /* 0: none; 1: z <- z sqrt(max(v, 0)); 2: as above; v is the variance that the model predicts */
    ds_device_int n_noise_draws; /* tensors of noise that a generator draws for the step, from 0 to 2; the last is z */
    ds_device_int evaluation;    /* the number of the evaluation; -1 in record 0 */
    ds_device_int reads_noise;   /* whether any sum reads z */
    ds_device_int reads[DS_DEVICE_MAX_READS];                     /* the slots that sums read, in their order; -1 behind the last */
    ds_device_int stores[DS_DEVICE_MAX_STORES];                   /* the slots of the stores; -1 behind the last */
    ds_device_int uses_prediction;                                /* whether an output reads p */
    ds_device_int reserved[3];                                    /* 0 */
    ds_device_double prediction[DS_DEVICE_PREDICTION_TERMS];      /* p's coefficients */
    ds_device_double outputs[DS_DEVICE_OUTPUTS][DS_DEVICE_TERMS]; /* each output's coefficients */
    /* Each coefficient c as two float32 numbers: the nearest to c, and the nearest to the rest. */
    float prediction_parts[DS_DEVICE_PREDICTION_TERMS][2];     /* of prediction */
    float output_parts[DS_DEVICE_OUTPUTS][DS_DEVICE_TERMS][2]; /* of outputs */
    ds_device_int padding[48];                                 /* 0 */
} ds_device_row;

/*
 * The record of an evaluation in a run that has taken `age` steps before, where `first` records stand before the plan's table:
 * 0 <= evaluation < n_steps of the plan, 0 <= age <= evaluation. A run begins at the age 0.
 */
#define DS_DEVICE_RECORD(first, evaluation, age, warm_up)                                                           \
    ((first) + 1 +                                                                                                  \
     ((evaluation) <= (warm_up) ? (evaluation) * ((evaluation) + 1) / 2                                             \
                                : (warm_up) * ((warm_up) + 1) / 2 + ((evaluation) - (warm_up)) * ((warm_up) + 1)) + \
     ((age) < (warm_up) ? (age) : (warm_up)))

#endif
