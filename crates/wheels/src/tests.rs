//! What the tests of several modules share.

use lamina_image::Libc;

use crate::request::Target;

/// A Debian 12 image's own interpreter.
pub(crate) fn target() -> Target {
    Target {
        python: "3.11".to_owned(),
        interpreter: "/usr/bin/python3".to_owned(),
        base_interpreter: "/usr/bin/python3".to_owned(),
        is_environment: false,
        site_packages: "/usr/local/lib/python3.11/dist-packages".to_owned(),
        scripts: "/usr/local/bin".to_owned(),
        prefix: "/usr/local".to_owned(),
        libc: Libc::Glibc(2, 36),
        machine: "x86_64".to_owned(),
    }
}
