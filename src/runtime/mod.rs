//! What every part needs from its surroundings: time, tasks, byte budgets, files, fail points,
//! metric names, ids. Owns no state of the stream or of tables.

pub mod background;
pub mod clock;
pub mod fail_points;
pub mod files;
pub mod ids;
pub mod metrics;
pub mod pace;
pub mod permits;
pub mod tasks;
pub mod when_woken;

pub use clock::Clock;
pub use fail_points::FailPoints;
pub use pace::{PACE_WINDOW, Pace};
pub use permits::{ByteBudget, BytePermit};
pub use tasks::Tasks;
pub use when_woken::WhenWoken;
