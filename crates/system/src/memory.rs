//! Memory that a process can do without for a while.

use std::ffi::c_void;

/// Gives back the memory into which the program's own code and constants are mapped. What is used again comes from the
/// kernel's cache of the file, at the cost of a page fault; the kernel may drop the rest where memory is short.
pub fn release_code() {
    // SAFETY: the callback has the type that is asked for, and its data is not used.
    unsafe { libc::dl_iterate_phdr(Some(release_first), std::ptr::null_mut()) };
}

/// Releases the segments of the object that is told first, which is the program itself, and ends the iteration.
unsafe extern "C" fn release_first(object: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> libc::c_int {
    // SAFETY: the loader hands out an object that exists during the call, with as many headers as it says.
    let (base, headers) = unsafe {
        let object = &*object;
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)))
    };
    // SAFETY: always sound.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        let start = (base + header.p_vaddr) / page * page;
        let end = base + header.p_vaddr + header.p_memsz;
        let (Ok(start), Ok(length)) = (usize::try_from(start), usize::try_from(end - start)) else { continue };
        // SAFETY: nobody has ever written to these pages, which are private to this process: they are what the file has, and
        // are read from there again when they are used.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(start), length, libc::MADV_DONTNEED) };
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many KiB of files are in this process's memory.
    fn resident_files() -> u64 {
        let status = fs_err::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn code_is_read_again_when_it_is_used() {
        let before = resident_files();
        release_code();
        assert!(resident_files() < before);
        // All of it still does what it did.
        assert_eq!(format!("{:?}", "a".repeat(3)), "\"aaa\"");
    }
}
