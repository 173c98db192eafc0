//! Files whose digest is not known.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use fs_err as fs;
use lamina_events::CancelToken;
use sha2::{Digest as _, Sha256};

use crate::FetchError;
use crate::download::{BUFFER_LENGTH, LARGEST, Progress, WORTHWHILE, is_spoilt, stored};
use crate::exchange::{Exchange, Failure, Header, Received};
use crate::partial::{PREFIX, Partial};

/// The end of the name of what says which version of a file a part is of.
const SUFFIX: &str = ".version";
/// How much older than the answer a file's time has to be: a file may change twice in a second.
const SETTLED: Duration = Duration::from_mins(1);

/// Fetches a file that is named by what comes. No digest would tell parts of different versions that were put together, so
/// the server has to name the version of the file, and parts are only ever of one.
pub(crate) struct IntoUnknown<'a> {
    url: &'a str,
    progress: Progress<'a>,
    partial: Partial,
    /// What the server calls the version that the part is of.
    version: Option<String>,
    /// Where that is written down, for other processes.
    note: PathBuf,
    /// Bytes that progress was told about.
    told: u64,
    /// The most bytes that there were before the last attempt.
    reached: u64,
}

impl<'a> IntoUnknown<'a> {
    pub(crate) fn new(
        url: &'a str,
        directory: &Path,
        progress: Progress<'a>,
        cancel: &CancelToken,
    ) -> Result<Self, FetchError> {
        let name = HEXLOWER.encode(&Sha256::digest(format!("address {url}")));
        let note = directory.join(format!("{PREFIX}{name}{SUFFIX}"));
        let partial = Partial::open(directory, &name, &directory.join(&name), cancel);
        cancel.check()?;
        let mut partial = match partial? {
            Some(partial) => partial,
            None => Partial::unnamed(directory)?,
        };
        let version = fs::read_to_string(&note).ok().filter(|_| partial.length() > 0 && partial.is_kept());
        if version.is_none() {
            partial.restart()?;
        }
        let reached = partial.length();
        if reached > 0 {
            progress(reached);
        }
        Ok(Self { url, progress, partial, version, note, told: reached, reached })
    }

    /// Names the file by what has come, or leaves what has come to the next attempt.
    pub(crate) fn end(mut self, done: Result<(), FetchError>, directory: &Path) -> Result<PathBuf, FetchError> {
        if done.as_ref().is_err_and(is_spoilt) || self.version.is_none() {
            self.partial.discard();
        }
        if self.partial.is_kept() && done.is_ok() {
            remove(&self.note)?;
        }
        done?;
        let path = directory.join(self.partial.sha256());
        self.partial.persist(&path)?;
        Ok(path)
    }

    /// Makes what comes a part of what is there, if it is one.
    fn prepare(&mut self, answer: &Received<'_>) -> Result<(), Failure> {
        let version = version(answer);
        if !self.partial.prepare(answer)? {
            // The part is empty now, so it does not matter that the note is a moment late.
            return self.begin(version).map_err(stored);
        }
        if version == self.version {
            return Ok(());
        }
        self.partial.restart().map_err(stored)?;
        Err(Failure::passing("it sent a part of another version of the file"))
    }

    /// Begins with a version of the file.
    fn begin(&mut self, version: Option<String>) -> io::Result<()> {
        if self.partial.is_kept() {
            match &version {
                Some(version) => fs::write(&self.note, version)?,
                None => remove(&self.note)?,
            }
        }
        self.version = version;
        Ok(())
    }
}

impl Exchange for IntoUnknown<'_> {
    type Output = ();

    fn headers(&self) -> Vec<Header> {
        let mut headers = self.partial.headers();
        if self.partial.length() > 0 {
            headers.extend(self.version.clone().map(|version| ("if-range", version)));
        }
        headers
    }

    fn takes(&self, status: u16) -> bool {
        self.partial.takes(status)
    }

    fn receive(&mut self, answer: Received<'_>) -> Result<(), Failure> {
        self.prepare(&answer)?;
        let mut buffer = vec![0; BUFFER_LENGTH];
        let came = loop {
            let count = match answer.body.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(count) => count,
                Err(error) => break Err(Failure::passing(error)),
            };
            if self.partial.length() + count as u64 > LARGEST {
                return Err(Failure::Final(FetchError::TooLarge { url: self.url.to_owned(), limit: LARGEST }));
            }
            self.partial.add(&buffer[..count]).map_err(stored)?;
            let news = self.partial.length().saturating_sub(self.told);
            self.told += news;
            (self.progress)(news);
        };
        if came.is_err() && self.version.is_none() {
            self.partial.restart().map_err(stored)?;
        }
        came
    }

    fn has_come_further(&mut self) -> bool {
        let has_come_further = self.partial.length() >= self.reached + WORTHWHILE;
        self.reached = self.reached.max(self.partial.length());
        has_come_further
    }
}

/// What names the version of a file so that `If-Range` can ask for it: a strong tag, or a time that has passed for long.
fn version(answer: &Received<'_>) -> Option<String> {
    let strong = answer.header("etag").filter(|tag| tag.starts_with('"'));
    strong.or_else(|| {
        let text = answer.header("last-modified")?;
        let [modified, now] = [&text, &answer.header("date")?].map(|text| httpdate::parse_http_date(text).ok());
        (now?.duration_since(modified?).ok()? >= SETTLED).then_some(text)
    })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
