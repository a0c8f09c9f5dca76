//! An array table of the kernel's as memory of this process: one store is one atomic publication, without a system
//! call. Needs `BPF_F_MMAPABLE` (Linux 5.5).
//!
//! The kernel maps pages of a table all at once, used or not, and counts them as this process's memory. So the table gets its
//! room in the address space, and is mapped there window by window, each at the first look at it.

use std::{
    cell::OnceCell,
    ffi::c_void,
    io,
    os::fd::{AsFd, OwnedFd},
    process::abort,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use tracing::error;

/// Octets that are mapped at once; whole pages, whatever their size.
const WINDOW_LEN: usize = 1 << 18;

/// An array table, as 64-bit words. The kernel gives every element a whole number of them.
pub(super) struct MappedArray {
    map: OwnedFd,
    start: NonNull<AtomicU64>,
    words: usize,
    words_per_element: usize,
    /// Which windows are mapped.
    windows: Box<[OnceCell<()>]>,
}

// SAFETY: the memory is shared with the kernel anyway and is accessed through atomics only.
unsafe impl Send for MappedArray {}

impl MappedArray {
    /// Maps `elements` elements of `element_len` octets.
    pub(super) fn new(map: impl AsFd, elements: u32, element_len: usize) -> io::Result<Self> {
        let words_per_element = element_len.div_ceil(8);
        let words = words_per_element * elements as usize;
        let windows = (words * 8).div_ceil(WINDOW_LEN);
        // SAFETY: a new mapping at an address of the kernel's choice, which nobody may access.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                windows * WINDOW_LEN,
                ProtFlags::empty(),
                MapFlags::PRIVATE,
            )
        }?;
        let array = Self {
            map: map.as_fd().try_clone_to_owned()?,
            start: NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            words,
            words_per_element,
            windows: vec![OnceCell::new(); windows].into(),
        };
        // What the kernel has against it, it says now.
        if windows > 0 {
            array.map_window(0)?;
            let _ = array.windows[0].set(());
        }
        Ok(array)
    }

    fn map_window(&self, window: usize) -> io::Result<()> {
        let offset = window * WINDOW_LEN;
        let len = WINDOW_LEN.min(self.words * 8 - offset);
        // SAFETY: inside the room that `new` has asked for, of which nothing refers to a window that is not mapped yet; a table as long
        // as this, which the kernel compares.
        unsafe {
            mmap(
                self.start.as_ptr().cast::<c_void>().byte_add(offset),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                self.map.as_fd(),
                offset as u64,
            )
        }?;
        Ok(())
    }

    fn word(&self, element: u32, word: usize) -> Option<&AtomicU64> {
        let index = element as usize * self.words_per_element + word;
        if index >= self.words || word >= self.words_per_element {
            return None;
        }
        let window = index * 8 / WINDOW_LEN;
        self.windows[window].get_or_init(|| {
            if let Err(reason) = self.map_window(window) {
                // Going on would leave a write out in the middle of others that readers rely on. The datapath stays as it is, and the
                // next agent reads what is there.
                error!(%reason, "a table can't be mapped into memory: the agent ends; give it more memory");
                abort();
            }
        });
        // SAFETY: inside a window that is mapped, as just seen to, aligned as a page start plus a multiple of 8, and alive until
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
        // SAFETY: start and length of our own mappings, which nothing refers to any longer.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.windows.len() * WINDOW_LEN) };
    }
}
