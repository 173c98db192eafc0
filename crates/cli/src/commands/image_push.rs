//! `modal image push`: an image in a registry.

use lamina_engine::{Engine, Options, Reference};
use lamina_events::CancelToken;

use super::ask::say;
use super::{USAGE, image_chosen, print};
use crate::arguments::ImagePush;
use crate::failure::Failure;
use crate::interruption::{self, Interruption};
use crate::output::text;

/// Sends it; its name by digest is printed.
pub(crate) fn push(wanted: &ImagePush) -> Result<u8, Failure> {
    let target: Reference = match wanted.target.parse() {
        Ok(target) => target,
        Err(error) => {
            let error: lamina_engine::ReferenceError = error;
            Failure::from_error(&error).print();
            return Ok(USAGE);
        }
    };
    let built = match image_chosen::build(&wanted.chosen, &wanted.environment)? {
        Ok(built) => built,
        Err(code) => return Ok(code),
    };
    let cancel = CancelToken::new();
    let interruption = Interruption::listen(interruption::catch()?, cancel.clone(), None, || ());
    let engine = Engine::open(&Options { cancel, ..Options::default() })?;
    let (parcel, _) = image_chosen::find(&engine, &wanted.chosen, &wanted.environment, built, wanted.packing.how())?;
    let pushed = engine.push(&parcel, &target, &image_chosen::count_layers(parcel.image.layers.len()));
    if let Some(code) = interruption.exit_code() {
        return Ok(code);
    }
    let pushed = pushed?;
    image_chosen::say_made_anew(pushed.layers_made_anew);
    let layers = parcel.image.layers.len();
    let had = layers - pushed.layers_sent;
    say(&format!(
        "Pushed `{}` to `{target}`: sent {} of {} layers, {}; {had} were there.\n",
        wanted.chosen.reference,
        pushed.layers_sent,
        layers,
        text::bytes(pushed.bytes_sent),
    ));
    print(format!("{}/{}@sha256:{}\n", target.registry, target.repository, pushed.digest).as_bytes())?;
    Ok(0)
}
