//! Where a distribution that was asked for by address came from (PEP 610), to the byte as the installers write it.

use crate::lock::quoted;
use crate::markers::version_is_in;
use crate::request::Installer;

/// The first pip that writes down digests of what it downloads.
const PIP_WITH_DIGESTS: &str = ">=23.1";

/// The text of `direct_url.json`, as `installer` writes it; `pip` is the image's version of pip.
pub(crate) fn direct_url(url: &str, sha256: &str, installer: Installer, pip: Option<&str>) -> String {
    let url = quoted(&without_login(url));
    let has_digests = pip.is_none_or(|version| version_is_in(version, PIP_WITH_DIGESTS) != Some(false));
    match installer {
        Installer::Uv => format!(r#"{{"url":{url},"archive_info":{{}}}}"#),
        Installer::Pip if has_digests => format!(
            r#"{{"archive_info": {{"hash": "sha256={sha256}", "hashes": {{"sha256": "{sha256}"}}}}, "url": {url}}}"#
        ),
        Installer::Pip => format!(r#"{{"archive_info": {{}}, "url": {url}}}"#),
    }
}

/// An address without the login and the fragment that it may have.
fn without_login(url: &str) -> String {
    let url = url.split('#').next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_installer_has_its_own_form() {
        let text = |installer, pip| direct_url("https://u:p@files.invalid/a%20b@1.whl#egg=a", "00", installer, pip);
        insta::assert_snapshot!(text(Installer::Uv, None), @r#"{"url":"https://files.invalid/a%20b@1.whl","archive_info":{}}"#);
        insta::assert_snapshot!(text(Installer::Pip, Some("25.1.1")), @r#"{"archive_info": {"hash": "sha256=00", "hashes": {"sha256": "00"}}, "url": "https://files.invalid/a%20b@1.whl"}"#);
        insta::assert_snapshot!(text(Installer::Pip, Some("23.0.1")), @r#"{"archive_info": {}, "url": "https://files.invalid/a%20b@1.whl"}"#);
    }
}
