/* SPDX-License-Identifier: Apache-2.0 */

#include <cblas.h>

/* Eigenvalues and eigenvectors of a symmetric matrix, from LAPACK (Users' Guide, third edition, routine SSYEV/DSYEV):
   Debian's OpenBLAS contains it, but its headers don't declare it. */
void dsyev_(const char *job, const char *triangle, const int *order, double *matrix, const int *leading_dimension,
            double *eigenvalues, double *work, const int *work_length, int *info);
