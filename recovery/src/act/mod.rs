//! Actuators: the only code that does something to a node.
//!
//! This version has one, [`process`]: it starts a coordinator's process on this host. Every node
//! without one is looked at and never touched.

pub mod process;
pub mod processes;

use crate::config::ProcessSpec;
use crate::error::RecoveryError;
use crate::observation::ProcessState;
use process::{ProcessActuator, Started};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The actuator of each node.
#[derive(Debug, Clone)]
pub struct Actuators {
    by_node: BTreeMap<String, Option<Arc<ProcessActuator>>>,
}

impl Actuators {
    /// The actuators that the config names.
    pub fn new(specs: &BTreeMap<String, Option<ProcessSpec>>, recovery_dir: &Path) -> Self {
        let by_node = specs
            .iter()
            .map(|(node, spec)| {
                let actuator = spec.clone().map(|spec| Arc::new(ProcessActuator::new(spec, recovery_dir)));
                (node.clone(), actuator)
            })
            .collect();
        Actuators { by_node }
    }

    fn of(&self, node: &str) -> Option<Arc<ProcessActuator>> {
        self.by_node.get(node).cloned().flatten()
    }

    /// True where something can start the node.
    pub fn can_start(&self, node: &str) -> bool {
        self.of(node).is_some()
    }

    /// What the host knows of the node's process.
    pub async fn probe(&self, node: &str) -> ProcessState {
        let Some(actuator) = self.of(node) else { return ProcessState::NoActuator };
        match tokio::task::spawn_blocking(move || actuator.probe()).await {
            Ok(state) => state,
            Err(e) => ProcessState::Unclear { why: format!("the look at the process failed: {e}") },
        }
    }

    /// Starts the node's process, if it is dead at this very moment.
    pub async fn start(&self, node: &str) -> Result<Started, RecoveryError> {
        let not_started = |why: String| RecoveryError::NotStarted { node: node.to_owned(), why };
        let actuator = self.of(node).ok_or_else(|| not_started("it has no actuator".into()))?;
        tokio::task::spawn_blocking(move || actuator.start()).await.map_err(|e| not_started(e.to_string()))?
    }
}
