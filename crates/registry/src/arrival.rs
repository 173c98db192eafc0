//! Layers on their way here, as those see them who unpack them: their bytes can be taken while they come.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use lamina_fetch::Coming;

use crate::unpack::growing::Notice;

/// Layers that are fetched side by side.
#[derive(Debug)]
pub(crate) struct Arrivals {
    layers: Mutex<Vec<Stage>>,
    changed: Condvar,
}

/// How far a layer is.
#[derive(Debug)]
enum Stage {
    Expected,
    /// So many bytes of it are in this file.
    Coming(Arc<File>, u64),
    /// It is there whole, and is what its digest says. Who reads the file in which it came has all of it; for others that is not
    /// kept open: hundreds of layers would take all descriptors that a process may have.
    Here(Weak<File>),
    /// It will not come.
    Lost,
}

impl Arrivals {
    pub(crate) fn new(count: usize) -> Self {
        let layers = std::iter::repeat_with(|| Stage::Expected).take(count).collect();
        Self { layers: Mutex::new(layers), changed: Condvar::new() }
    }

    /// One of the layers.
    pub(crate) fn get(&self, index: usize) -> Arrival<'_> {
        Arrival(Some((self, index)))
    }

    /// Takes note of what is heard of a layer.
    pub(crate) fn hear(&self, index: usize, coming: Coming<'_>) {
        self.change(|layers| {
            let stage = &mut layers[index];
            *stage = match (&stage, coming) {
                (Stage::Coming(file, _), Coming::Bytes(_, length)) => Stage::Coming(Arc::clone(file), length),
                // Where there is no descriptor left for it, it is unpacked once it is there.
                (_, Coming::Bytes(file, length)) => {
                    file.try_clone().map_or(Stage::Expected, |file| Stage::Coming(Arc::new(file), length))
                }
                (_, Coming::Anew) => Stage::Expected,
            };
        });
    }

    /// A layer is there.
    pub(crate) fn arrived(&self, index: usize) {
        self.change(|layers| {
            layers[index] = Stage::Here(match &layers[index] {
                Stage::Coming(file, _) => Arc::downgrade(file),
                _ => Weak::new(),
            });
        });
    }

    /// What is not there yet is fetched in another way.
    pub(crate) fn begin_anew(&self) {
        self.replace(|| Stage::Expected);
    }

    /// Until it is dropped, more may come.
    pub(crate) fn open(&self) -> Open<'_> {
        Open(self)
    }

    /// Whether something will not come.
    pub(crate) fn have_lost(&self) -> bool {
        self.layers().iter().any(|stage| matches!(stage, Stage::Lost))
    }

    fn replace(&self, stage: impl Fn() -> Stage) {
        let is_there = |stage: &Stage| matches!(stage, Stage::Here(_));
        self.change(|layers| layers.iter_mut().filter(|stage| !is_there(stage)).for_each(|each| *each = stage()));
    }

    fn change(&self, change: impl FnOnce(&mut [Stage])) {
        change(&mut self.layers());
        self.changed.notify_all();
    }

    fn layers(&self) -> MutexGuard<'_, Vec<Stage>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, mut is_early: impl FnMut(&[Stage]) -> bool) -> MutexGuard<'_, Vec<Stage>> {
        let waited = self.changed.wait_while(self.layers(), |layers| is_early(layers));
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

/// For as long as layers may come.
pub(crate) struct Open<'a>(&'a Arrivals);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.replace(|| Stage::Lost);
    }
}

/// A layer on its way, or one that is there.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a>(Option<(&'a Arrivals, usize)>);

impl Arrival<'_> {
    /// That of a layer that is there.
    pub const HERE: Self = Self(None);

    /// Waits until it is there; false if it will not come.
    pub(crate) fn wait(&self) -> bool {
        let Some((arrivals, index)) = self.0 else { return true };
        let layers = arrivals.wait_while(|layers| matches!(layers[index], Stage::Expected | Stage::Coming(..)));
        matches!(layers[index], Stage::Here(_))
    }

    /// Waits for its first bytes, and answers the file that they are in; none if it is there already, or will not come.
    pub(crate) fn coming(&self) -> Option<Arc<File>> {
        let (arrivals, index) = self.0?;
        let layers = arrivals.wait_while(|layers| matches!(layers[index], Stage::Expected));
        match &layers[index] {
            Stage::Coming(file, _) => Some(Arc::clone(file)),
            _ => None,
        }
    }

    /// Tells a reader of `file` how much of it is there, until that is all of it, which is answered. It ends before where the
    /// layer comes anew, or not at all, nobody listens, or `is_over` says so, which is asked when something changes.
    pub(crate) fn tell(&self, file: &Arc<File>, listener: &mut dyn Write, is_over: &dyn Fn() -> bool) -> bool {
        let Some((arrivals, index)) = self.0 else { return false };
        let mut told = 0;
        loop {
            let is_known = |stage: &Stage| matches!(stage, Stage::Coming(in_file, length) if Arc::ptr_eq(in_file, file) && *length == told);
            let layers = arrivals.wait_while(|layers| is_known(&layers[index]) && !is_over());
            let notice = match &layers[index] {
                _ if is_over() => return false,
                Stage::Coming(in_file, length) if Arc::ptr_eq(in_file, file) => Notice::Length(*length),
                Stage::Here(in_file) if in_file.as_ptr() == Arc::as_ptr(file) => Notice::Whole,
                _ => return false,
            };
            drop(layers);
            if notice.write(listener).is_err() {
                return false;
            }
            match notice {
                Notice::Length(length) => told = length,
                Notice::Whole => return true,
            }
        }
    }

    /// Has whoever tells look whether that is over.
    pub(crate) fn wake(&self) {
        if let Some((arrivals, _)) = self.0 {
            arrivals.change(|_| ());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn file() -> File {
        tempfile::tempfile().unwrap()
    }

    /// What a reader of the first layer is told while `events` happen, one after the other, and whether that was all.
    fn told(events: &[&(dyn Fn(&Arrivals) + Sync)]) -> (Vec<Notice>, bool) {
        let arrivals = Arrivals::new(1);
        arrivals.hear(0, Coming::Bytes(&file(), 1));
        let arrival = arrivals.get(0);
        let coming = arrival.coming().unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        std::thread::scope(|scope| {
            let telling = scope.spawn(move || arrival.tell(&coming, &mut writer, &|| false));
            let mut heard = vec![Notice::read(&mut reader).unwrap()];
            for event in events {
                event(&arrivals);
                heard.extend(Notice::read(&mut reader).ok());
            }
            (heard, telling.join().unwrap())
        })
    }

    #[test]
    fn a_reader_hears_of_all_bytes_until_they_are_believed() {
        let grows = |arrivals: &Arrivals| arrivals.hear(0, Coming::Bytes(&file(), 5));
        let arrives = |arrivals: &Arrivals| arrivals.arrived(0);
        let heard = vec![Notice::Length(1), Notice::Length(5), Notice::Whole];
        assert_eq!(told(&[&grows, &arrives]), (heard, true));
    }

    #[test]
    fn a_reader_of_what_comes_anew_hears_no_more() {
        let again = |arrivals: &Arrivals| {
            arrivals.change(|layers| {
                // At once, so that nobody sees the stages between.
                layers[0] = Stage::Here(Arc::downgrade(&Arc::new(file())));
            });
        };
        let anew = |arrivals: &Arrivals| arrivals.hear(0, Coming::Anew);
        let otherwise = |arrivals: &Arrivals| arrivals.begin_anew();
        let never = |arrivals: &Arrivals| drop(arrivals.open());
        for event in [&again as &(dyn Fn(&Arrivals) + Sync), &anew, &otherwise, &never] {
            assert_eq!(told(&[event]), (vec![Notice::Length(1)], false));
        }
    }

    #[test]
    fn telling_ends_when_nobody_wants_it() {
        let arrivals = Arrivals::new(1);
        arrivals.hear(0, Coming::Bytes(&file(), 1));
        let arrival = arrivals.get(0);
        let coming = arrival.coming().unwrap();
        assert!(!arrival.tell(&coming, &mut io::sink(), &|| true));
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        assert!(!arrival.tell(&coming, &mut writer, &|| false));
    }

    #[test]
    fn what_nobody_reads_is_closed_once_it_is_there() {
        let arrivals = Arrivals::new(2);
        (0..2).for_each(|index| arrivals.hear(index, Coming::Bytes(&file(), 1)));
        let reader = arrivals.get(1).coming();
        (0..2).for_each(|index| arrivals.arrived(index));
        let is_open = |stage: &Stage| matches!(stage, Stage::Here(file) if file.strong_count() > 0);
        let are_open = || arrivals.layers().iter().map(is_open).collect::<Vec<_>>();
        assert_eq!(are_open(), [false, true]);
        drop(reader);
        assert_eq!(are_open(), [false, false]);
    }

    #[test]
    fn what_is_there_is_not_coming_and_what_is_lost_is_not_there() {
        let arrivals = Arrivals::new(3);
        {
            let _open = arrivals.open();
            arrivals.arrived(0);
            arrivals.hear(1, Coming::Bytes(&file(), 7));
            arrivals.arrived(1);
            assert!(!arrivals.have_lost());
        }
        let are_coming = [0, 1, 2].map(|index| arrivals.get(index).coming().is_some());
        assert_eq!(are_coming, [false; 3]);
        assert_eq!([0, 1, 2].map(|index| arrivals.get(index).wait()), [true, true, false]);
        assert!(arrivals.have_lost() && Arrival::HERE.wait());
    }
}
