//! What the operating system knows of this process. Machines are handed these facts, like time.

use std::io;

/// Raises the soft limit of open descriptors towards `wanted`, as far as the hard limit allows, and
/// gives the limit that holds now.
pub fn raise_descriptor_limit(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid place for the answer and lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let goal: libc::rlim_t = wanted.min(limit.rlim_max);
    if goal > limit.rlim_cur {
        let raised = libc::rlimit {
            rlim_cur: goal,
            rlim_max: limit.rlim_max,
        };
        // SAFETY: `raised` lives through the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
            return Ok(goal);
        }
    }
    Ok(limit.rlim_cur)
}

/// How many more descriptors this process may open; `None` where the system does not tell.
pub fn spare_descriptors() -> Option<usize> {
    let limit = raise_descriptor_limit(0).ok()?;
    let spare = limit.saturating_sub(open_descriptors().unwrap_or(0));
    Some(usize::try_from(spare).unwrap_or(usize::MAX))
}

/// Resident memory in bytes; `None` where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: sysconf(3) takes a number.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    pages.checked_mul(page)
}

/// How many descriptors are open; `None` where the system does not tell.
pub fn open_descriptors() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    // One of them is the directory that is being read.
    Some((entries.count() as u64).saturating_sub(1))
}

/// Unmaps the pages of code that starting up has touched: reading flags, linking and opening
/// sockets take a megabyte of it that an idle daemon never runs again. What runs on is mapped in
/// again from the page cache when it is needed, for the price of a minor fault.
#[cfg(target_os = "linux")]
pub fn forget_startup_code() {
    // SAFETY: the callback only reads what it is handed and asks for clean pages of code to be
    // dropped.
    unsafe { libc::dl_iterate_phdr(Some(forget_code_of), std::ptr::null_mut()) };
}

/// Elsewhere there is nothing to do.
#[cfg(not(target_os = "linux"))]
pub fn forget_startup_code() {}

/// Has the allocator give large buffers back to the system as soon as they are freed. Left alone it
/// learns from the first one that such buffers come again, and keeps for ever what slow peers once
/// needed. And has all threads share one heap: those beside the loop are too small for their own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn return_large_buffers() {
    // SAFETY: mallopt(3) takes two numbers; at worst it changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, crate::limits::LARGE_BUFFER);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Other allocators have ways of their own.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_large_buffers() {}

/// Has the allocator give the system back what it holds of freed memory.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_memory_back() {
    // SAFETY: malloc_trim(3) takes a number and only gives back pages that nobody uses.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators have ways of their own.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_memory_back() {}

/// Called by dl_iterate_phdr(3) for every loaded object.
#[cfg(target_os = "linux")]
unsafe extern "C" fn forget_code_of(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader hands a valid object, whose headers live as long as it is loaded.
    let (base, headers) = unsafe {
        let object = &*object;
        let count = usize::from(object.dlpi_phnum);
        (
            object.dlpi_addr,
            std::slice::from_raw_parts(object.dlpi_phdr, count),
        )
    };
    // SAFETY: sysconf(3) takes a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64;
    for header in headers {
        let is_code = header.p_flags & libc::PF_X != 0 && header.p_flags & libc::PF_W == 0;
        if header.p_type != libc::PT_LOAD || !is_code {
            continue;
        }
        // Whole pages inside the segment only: its neighbours may be data.
        let start = (base + header.p_vaddr).next_multiple_of(page);
        let end = (base + header.p_vaddr + header.p_memsz) / page * page;
        if start < end {
            let length = (end - start) as usize;
            // SAFETY: these pages are code that nobody writes, so they are the same when they come
            // back from the file. A failure leaves them where they are.
            unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
        }
    }
    0
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_descriptors() {
        assert!(resident_bytes().unwrap() > 100_000);
        assert!(open_descriptors().unwrap() >= 3);
        assert!(raise_descriptor_limit(16).unwrap() >= 16);
        assert!(spare_descriptors().unwrap() > 16);
    }

    #[test]
    fn code_that_was_forgotten_still_runs() {
        forget_startup_code();
        assert!(open_descriptors().unwrap() >= 3);
    }
}
