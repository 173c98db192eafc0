//! Classes of errors in Python.

use serde::{Deserialize, Serialize};

/// The Python class that an error is raised as: one of `modal.exception`, or a built-in one. Serialised as its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorClass {
    /// Something of that name is there already.
    AlreadyExistsError,
    /// The request contradicts the present state of an object.
    ConflictError,
    /// Something went wrong while an app was running.
    ExecutionError,
    /// A file is there already; built in.
    FileExistsError,
    /// A file does not exist; built in.
    FileNotFoundError,
    /// A function ran longer than its timeout.
    FunctionTimeoutError,
    /// A step of an image failed.
    ImageBuildError,
    /// A container was lost.
    InternalFailure,
    /// A method got a value that it does not accept.
    InvalidError,
    /// A table lacks what was asked for; built in.
    KeyError,
    /// The user interrupted; built in.
    KeyboardInterrupt,
    /// A local file is where a directory has to be; built in.
    NotADirectoryError,
    /// Something that was named does not exist.
    NotFoundError,
    /// Something failed outside of the caller's process.
    RemoteError,
    /// What was asked for is larger than possible.
    RequestSizeError,
    /// A value has the right type and is of no use; built in.
    ValueError,
    /// Two parts that speak with each other are of versions that do not fit.
    VersionError,
}

impl ErrorClass {
    /// Every class.
    pub const ALL: [Self; 17] = [
        Self::AlreadyExistsError,
        Self::ConflictError,
        Self::ExecutionError,
        Self::FileExistsError,
        Self::FileNotFoundError,
        Self::FunctionTimeoutError,
        Self::ImageBuildError,
        Self::InternalFailure,
        Self::InvalidError,
        Self::KeyError,
        Self::KeyboardInterrupt,
        Self::NotADirectoryError,
        Self::NotFoundError,
        Self::RemoteError,
        Self::RequestSizeError,
        Self::ValueError,
        Self::VersionError,
    ];

    /// Whether Python has the class without the package.
    #[must_use]
    pub fn is_builtin(self) -> bool {
        matches!(
            self,
            Self::FileExistsError
                | Self::FileNotFoundError
                | Self::KeyError
                | Self::KeyboardInterrupt
                | Self::NotADirectoryError
                | Self::ValueError
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_has_every_class() {
        let package = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/modal/exception.py");
        let text = fs_err::read_to_string(package).unwrap();
        for class in ErrorClass::ALL {
            let name = serde_json::to_value(class).unwrap();
            let is_defined = text.contains(&format!("\nclass {}(", name.as_str().unwrap()));
            assert_ne!(is_defined, class.is_builtin(), "{name}");
        }
    }

    #[test]
    fn every_class_is_in_the_list() {
        // Whoever adds a class has to add it here, and then above.
        for (index, class) in ErrorClass::ALL.into_iter().enumerate() {
            let place = match class {
                ErrorClass::AlreadyExistsError => 0,
                ErrorClass::ConflictError => 1,
                ErrorClass::ExecutionError => 2,
                ErrorClass::FileExistsError => 3,
                ErrorClass::FileNotFoundError => 4,
                ErrorClass::FunctionTimeoutError => 5,
                ErrorClass::ImageBuildError => 6,
                ErrorClass::InternalFailure => 7,
                ErrorClass::InvalidError => 8,
                ErrorClass::KeyError => 9,
                ErrorClass::KeyboardInterrupt => 10,
                ErrorClass::NotADirectoryError => 11,
                ErrorClass::NotFoundError => 12,
                ErrorClass::RemoteError => 13,
                ErrorClass::RequestSizeError => 14,
                ErrorClass::ValueError => 15,
                ErrorClass::VersionError => 16,
            };
            assert_eq!(place, index);
        }
    }
}
