//! What `MODAL_GPU` says about requests for GPUs.

use std::ffi::OsStr;

use lamina_ground::EnvVars;
use lamina_image::GpuRequest;

use crate::DevicesError;

/// How requests for GPUs are taken on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuSetting {
    /// As they are.
    Asked,
    /// As requests for GPUs of any type.
    Any,
    /// Not at all: everything runs without GPUs.
    Ignore,
}

impl GpuSetting {
    /// What the environment says.
    ///
    /// # Errors
    /// When it says something else.
    pub fn of_environment() -> Result<Self, DevicesError> {
        Self::read(std::env::var_os(EnvVars::MODAL_GPU).as_deref())
    }

    fn read(value: Option<&OsStr>) -> Result<Self, DevicesError> {
        match value.map(OsStr::to_string_lossy).as_deref() {
            None | Some("") => Ok(Self::Asked),
            Some("any") => Ok(Self::Any),
            Some("ignore") => Ok(Self::Ignore),
            Some(other) => Err(DevicesError::Setting(other.to_owned())),
        }
    }

    /// What becomes of requests.
    pub fn apply(self, requests: &mut Vec<GpuRequest>) {
        match self {
            Self::Asked => {}
            Self::Any => {
                for request in requests.iter_mut() {
                    GpuRequest::ANY.clone_into(&mut request.kind);
                }
                requests.dedup();
            }
            Self::Ignore => requests.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_one_of_two_words() {
        let apply = |value: &str| {
            let setting = GpuSetting::read(Some(value.as_ref())).map_err(|error| error.to_string())?;
            let mut requests: Vec<GpuRequest> = ["H100", "A100", "A100:2"].map(|text| text.parse().unwrap()).to_vec();
            setting.apply(&mut requests);
            Ok::<_, String>(requests.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
        };
        assert_eq!(apply("").as_deref(), Ok("H100,A100,A100:2"));
        assert_eq!(apply("any").as_deref(), Ok("ANY,ANY:2"));
        assert_eq!(apply("ignore").as_deref(), Ok(""));
        insta::assert_snapshot!(apply("none").unwrap_err(), @"`MODAL_GPU` is `none`: set it to `any` or `ignore`, or unset it");
    }
}
