//! The process's own environment.

/// Sets environment variables that are not set yet.
///
/// The caller has no other thread yet, as at the very start of `main`.
pub fn set_missing_variables<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) {
    for (name, value) in variables {
        if std::env::var_os(name).is_none() {
            // SAFETY: there is no other thread that could read the environment meanwhile.
            unsafe { std::env::set_var(name, value) };
        }
    }
}
