/* The value of an int, as PyLong_AsLongLongAndOverflow says it, which is a call and 30 instructions: here those that are
 * nearly all are read where they lie. number: an exact int. */
#ifndef HBCORE_INTEGERS_H
#define HBCORE_INTEGERS_H

#include <Python.h>

/* Returns 0, or not 0 if it is not within -2**63 .. 2**63 - 1; *value is -1 then. Raises nothing. */
static inline int hb_read_integer(PyObject *number, long long *value)
{
    int overflow;
#if PY_VERSION_HEX >= 0x030C0000
    if (PyUnstable_Long_IsCompact((PyLongObject *)number)) {
        *value = PyUnstable_Long_CompactValue((PyLongObject *)number);
        return 0;
    }
#else
    const digit *digits = ((PyLongObject *)number)->ob_digit;
    if (Py_SIZE(number) == 1 || Py_SIZE(number) == 2) { /* how many, negative of a negative int */
        *value = (long long)digits[0] | (Py_SIZE(number) == 2 ? (long long)digits[1] << PyLong_SHIFT : 0);
        return 0;
    }
#endif
    *value = PyLong_AsLongLongAndOverflow(number, &overflow);
    return overflow;
}

#endif
