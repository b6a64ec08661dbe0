//! Wrapping keys: the ciphertext blob.
