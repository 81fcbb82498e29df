cpdef list ketama_points(str name, Py_ssize_t count)
cpdef object build_points(list names, list counts)
