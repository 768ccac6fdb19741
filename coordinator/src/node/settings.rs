//! The replicated settings for those who check requests: read without the machine, which the
//! applier holds for a whole batch.

use crate::machine::Limits;
use parking_lot::RwLock;
use std::sync::Arc;

/// What the machine's settings were after the last batch.
#[derive(Debug, Default)]
pub struct Settings(RwLock<Arc<Limits>>);

impl Settings {
    /// What they are.
    pub fn current(&self) -> Arc<Limits> {
        self.0.read().clone()
    }

    /// Takes them over where they changed.
    pub fn publish(&self, limits: &Limits) {
        if **self.0.read() != *limits {
            *self.0.write() = Arc::new(limits.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_and_no_change_copies_nothing() {
        let settings = Settings::default();
        let before = settings.current();
        settings.publish(&Limits::default());
        assert!(Arc::ptr_eq(&before, &settings.current()));
        settings.publish(&Limits { batch_tasks: 7, ..Limits::default() });
        assert_eq!(settings.current().batch_tasks, 7);
    }
}
