/* The value of a Python int. PyLong_AsLongLongAndOverflow says the same, but costs a call and 30 instructions; here the
 * digits of nearly all ints are read where they lie. */
#ifndef HBCORE_INTEGERS_H
#define HBCORE_INTEGERS_H

#include <Python.h>

/* Read an exact int into *value and return 0. If it is not within -2**63 .. 2**63 - 1, set *value to -1 and return
 * something else. Raises nothing. */
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
    if (Py_SIZE(number) == 1 || Py_SIZE(number) == 2) { /* the number of digits, negated for a negative int */
        *value = (long long)digits[0] | (Py_SIZE(number) == 2 ? (long long)digits[1] << PyLong_SHIFT : 0);
        return 0;
    }
#endif
    *value = PyLong_AsLongLongAndOverflow(number, &overflow);
    return overflow;
}

#endif
