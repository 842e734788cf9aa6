//! What wakes the engine: workers leave their reports in channels, and ring when there is a reason to look.
//!
//! Waking a thread costs more than what a small file's report makes it do, so results of reading small files are left lying until some
//! have come together; everything else rings at once, and one ring is enough for all that lies there.
//! What must never happen here: a report that is never looked at. The engine looks at all channels whenever it wakes, and wakes
//! by itself several times a second while anything is under way.

use crossbeam_channel::{Receiver, Sender, bounded};

/// The workers' end.
#[derive(Clone, Debug)]
pub struct Bell(Sender<()>);

/// A bell, and the end that hears it.
pub fn bell() -> (Bell, Receiver<()>) {
    // Rung twice before anybody looks is rung once.
    let (bell, rung) = bounded(1);
    (Bell(bell), rung)
}

impl Bell {
    /// To be called after the report has been put into its channel.
    pub fn ring(&self) {
        let _rung_already_or_nobody_left = self.0.try_send(());
    }
}
