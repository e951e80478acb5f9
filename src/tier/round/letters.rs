//! The dead-letter table of a commit: opened when a record needs it, or before.

use std::sync::Arc;

use crate::table::catalog::LoadedTable;
use crate::tier::context::Halt;
use crate::tier::encode::Target;
use crate::tier::evolve;
use crate::tier::ledger::StopState;
use crate::tier::lifecycle;
use crate::tier::round::Round;
use crate::tier::rows::dlq;

impl Round<'_> {
    /// Opens the dead-letter table, if it is there, before a record needs it: the group in which the
    /// first one does is encoded a second time otherwise.
    pub(in crate::tier) async fn expect_dead_letters(&mut self) {
        let Some(known) = &self.entry.dlq else { return };
        let Ok(ident) = known.ident() else { return };
        match self.context.catalog.load(&ident).await {
            Ok(loaded) if loaded.metadata.uuid() == known.uuid => {
                // What is wrong with it is told once a record needs it.
                let _ = self.dead_letters_to(loaded).await;
            }
            _ => {}
        }
    }

    pub(super) async fn open_dead_letters(&mut self) -> Result<(), Halt> {
        let main = self.table.ident.clone();
        let loaded = lifecycle::ensure_dead_letters(self.context, self.entry, &main).await?;
        self.dead_letters_to(loaded).await
    }

    async fn dead_letters_to(&mut self, loaded: LoadedTable) -> Result<(), Halt> {
        let loaded = evolve::restore_columns(self.context, loaded, dlq::schema()).await?;
        let metadata = &loaded.metadata;
        let spec = Arc::clone(metadata.default_partition_spec());
        let target = Target::new(Arc::clone(metadata.current_schema()), spec)?;
        if !target.spec.is_unpartitioned() {
            let reason = format!("dead-letter table {} must be unpartitioned", loaded.ident);
            return Err(Halt::Stop(StopState::ConfigError, reason));
        }
        self.dead_letters = Some((loaded, target));
        Ok(())
    }
}
