cpdef bytes decode_huffman(bytes coded)
