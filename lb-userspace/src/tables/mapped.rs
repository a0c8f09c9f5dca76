//! An array table of the kernel's as memory of this process: one store is one atomic publication, without a system
//! call. Needs `BPF_F_MMAPABLE` (Linux 5.5).

use std::{
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// An array table, as 64-bit words. The kernel gives every element a whole number of them.
pub(super) struct MappedArray {
    start: NonNull<AtomicU64>,
    words: usize,
    words_per_element: usize,
}

// SAFETY: the memory is shared with the kernel anyway and is accessed through atomics only.
unsafe impl Send for MappedArray {}

impl MappedArray {
    /// Maps `elements` elements of `element_len` octets.
    pub(super) fn new(map: impl AsFd, elements: u32, element_len: usize) -> std::io::Result<Self> {
        let words_per_element = element_len.div_ceil(8);
        let words = words_per_element * elements as usize;
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that is as long as is asked for: the
        // kernel refuses a longer one.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                words * 8,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map.as_fd(),
                0,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            start,
            words,
            words_per_element,
        })
    }

    fn word(&self, element: u32, word: usize) -> Option<&AtomicU64> {
        let index = element as usize * self.words_per_element + word;
        if index >= self.words || word >= self.words_per_element {
            return None;
        }
        // SAFETY: inside the mapping as just compared, aligned as a page start plus a multiple of 8, and alive until
        // `drop`, which needs `self`.
        Some(unsafe { self.start.add(index).as_ref() })
    }

    /// Reads a word; 0 beyond the end.
    pub(super) fn load(&self, element: u32, word: usize) -> u64 {
        self.word(element, word).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Writes a word: readers see it whole, and with it everything that was written before. A write beyond the end is
    /// left out.
    pub(super) fn store(&self, element: u32, word: usize, value: u64) {
        if let Some(word) = self.word(element, word) {
            word.store(value, Ordering::Release);
        }
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: start and length of our own mapping, which nothing refers to any longer.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.words * 8) };
    }
}
