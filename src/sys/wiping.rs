//! The program's memory allocator: the system's, but what is freed is wiped first.
//!
//! Secrets pass through memory that no type of coffer owns: read buffers of hyper, records of rustls, a vector that grew,
//! a string that serde built. None of those libraries wipes what it frees. This one place wipes for all of them.

use std::alloc::{GlobalAlloc, Layout, System};

/// Wipes memory when it is freed, and what a growing or shrinking allocation leaves behind.
///
/// Memory that a C library allocates does not come from here: aws-lc wipes its own, SQLite holds nothing in the clear.
pub struct Wiping;

// SAFETY: every allocation is the system allocator's, with the caller's layout; before it is freed, the caller has given up
// its `layout.size()` bytes, so writing to them is allowed. `realloc` is the default: it allocates, copies and frees through
// these functions.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's obligations are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's obligations are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: ptr was allocated with this layout, and nobody uses its bytes any more. The barrier keeps the compiler from
        // dropping a write that it could see nobody read.
        unsafe {
            ptr.write_bytes(0, layout.size());
            std::hint::black_box(ptr);
            System.dealloc(ptr, layout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_freed_or_left_behind_is_wiped() {
        for grow in [false, true] {
            let layout = Layout::from_size_align(4096, 16).unwrap();
            // SAFETY: the layout is not empty; reads of the freed block go no further than its length, and malloc keeps a
            // block of this size mapped.
            let left = unsafe {
                let ptr = Wiping.alloc(layout);
                ptr.write_bytes(0xa5, 4096);
                // A block behind it, so that malloc does not return its memory to the system.
                let fence = Wiping.alloc(layout);
                if grow {
                    let grown = Wiping.realloc(ptr, layout, 8192);
                    assert!(std::slice::from_raw_parts(grown, 4096).iter().all(|b| *b == 0xa5), "it is the same");
                    Wiping.dealloc(grown, Layout::from_size_align(8192, 16).unwrap());
                } else {
                    Wiping.dealloc(ptr, layout);
                }
                let left = (0..4096).filter(|n| ptr.add(*n).read_volatile() == 0xa5).count();
                Wiping.dealloc(fence, layout);
                left
            };
            assert_eq!(left, 0, "grow: {grow}");
        }
    }
}
