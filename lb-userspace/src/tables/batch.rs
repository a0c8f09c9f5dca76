//! Many entries a system call (Linux 5.6), which aya lacks: reading a hash table (`BPF_MAP_LOOKUP_BATCH`), of which a million
//! flows would take seconds one by one; reading and writing a row of an array (`BPF_MAP_UPDATE_BATCH`).

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// `BPF_MAP_LOOKUP_BATCH` in the kernel's `enum bpf_cmd`.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// The same, `BPF_MAP_UPDATE_BATCH`.
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// The member of the kernel's `union bpf_attr` for batch commands.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Does a command of many entries.
///
/// # Safety
/// What `attr` points to is as the command wants it: keys and values of the table's lengths, `count` of each, and places in the table.
unsafe fn batch(command: libc::c_long, attr: &mut BatchAttr) -> io::Result<()> {
    // SAFETY: the structure is laid out as the kernel's and outlives the call; what it points to is up to the caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<BatchAttr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Writes elements of an array, from `first` on. A reader may see some of them before others.
///
/// # Errors
/// If the kernel refuses; the first of them may be written.
pub(super) fn write_row<V: aya::Pod>(map: BorrowedFd<'_>, first: u32, values: &[V]) -> io::Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    let keys: Vec<u32> = (first..).take(values.len()).collect();
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr().addr() as u64,
        values: values.as_ptr().addr() as u64,
        count: values.len() as u32,
        map_fd: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: there are `count` keys and as many values, of the table's lengths, from which the kernel only reads.
    unsafe { batch(BPF_MAP_UPDATE_BATCH, &mut attr) }
}

/// Reads elements of an array, from `first` on; fewer if it ends before.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn read_row<V: aya::Pod>(map: BorrowedFd<'_>, first: u32, count: u32) -> io::Result<Vec<V>> {
    let mut keys = vec![0_u32; count as usize];
    let mut values: Vec<V> = Vec::with_capacity(count as usize);
    // The kernel begins with the element after the one that is named.
    let (before, mut last) = (first.wrapping_sub(1), 0_u32);
    let mut attr = BatchAttr {
        in_batch: if first == 0 {
            0
        } else {
            (&raw const before).addr() as u64
        },
        out_batch: (&raw mut last).expose_provenance() as u64,
        keys: keys.as_mut_ptr().expose_provenance() as u64,
        values: values.as_mut_ptr().expose_provenance() as u64,
        count,
        map_fd: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `keys` and `values` have room for `count` entries, `before` and `last` are keys.
    let result = unsafe { batch(BPF_MAP_LOOKUP_BATCH, &mut attr) };
    // The array ended; what there is, is written.
    if let Err(error) = result
        && error.raw_os_error() != Some(libc::ENOENT)
    {
        return Err(error);
    }
    // SAFETY: the kernel has written that many entries, which is no more than there is room for, and every bit pattern is a valid `Pod`.
    unsafe { values.set_len(attr.count.min(count) as usize) };
    Ok(values)
}

/// Calls `visit` with every entry, read `batch_len` at a time. Entries that come or go meanwhile may be missed or seen
/// twice.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn for_each<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    batch_len: u32,
    mut visit: impl FnMut(&K, &V),
) -> io::Result<()> {
    let mut len = batch_len as usize;
    let mut keys: Vec<K> = Vec::new();
    let mut values: Vec<V> = Vec::new();
    // A place in the table: opaque, at most as long as a key or 4 octets.
    let (mut from, mut to) = ([0_u64; 8], [0_u64; 8]);
    assert!(size_of::<K>() <= size_of_val(&from), "a place in the table doesn't fit");
    let mut first = true;
    loop {
        keys.clear();
        values.clear();
        keys.reserve(len);
        values.reserve(len);
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { from.as_ptr().addr() as u64 },
            out_batch: to.as_mut_ptr().expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: len as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: `keys` and `values` have room for `count` entries, `from` and `to` for a place.
        let result = unsafe { batch(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let error = result.err();
        let end = match &error {
            None => false,
            Some(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            // One bucket of the table holds more entries than were asked for.
            Some(error) if error.raw_os_error() == Some(libc::ENOSPC) && len < 1 << 20 => {
                len *= 2;
                continue;
            }
            Some(_) => return Err(error.unwrap_or_else(|| io::ErrorKind::Other.into())),
        };
        let count = (attr.count as usize).min(len);
        // SAFETY: the kernel has written `count` entries, which is no more than there is room for, and every bit
        // pattern is a valid `Pod`.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        for (key, value) in keys.iter().zip(&values) {
            visit(key, value);
        }
        if end {
            return Ok(());
        }
        std::mem::swap(&mut from, &mut to);
        first = false;
    }
}
