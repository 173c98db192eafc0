//! The host's directory of users.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr;

/// The name of a user, from whatever directory the host uses.
#[must_use]
pub fn user_name(uid: u32) -> Option<String> {
    let mut buffer = vec![0; 16 << 10];
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut found = ptr::null_mut();
    // SAFETY: the buffer has the length that is given; on success the entry is filled and points into it.
    unsafe {
        let result = libc::getpwuid_r(uid, entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found);
        if result != 0 || found.is_null() {
            return None;
        }
        Some(CStr::from_ptr(entry.assume_init().pw_name).to_string_lossy().into_owned())
    }
}
