//! What can be wrong with what is to be simulated.

/// What can be wrong with what is to be simulated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SimError {
    /// No such device is built in.
    #[error("no simulated device is called {name:?}; there are {known}")]
    UnknownDevice {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A file of constants is wrong.
    #[error("constants of {name}: {problem}")]
    Constants {
        /// The file.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A device cannot be like this.
    #[error("device {name}: {problem}")]
    Device {
        /// What it is of.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A file of measured kernels is wrong.
    #[error("profile of {name}: {problem}")]
    Profile {
        /// The model.
        name: String,
        /// What is wrong, with the line.
        problem: String,
    },
    /// No such model has been measured.
    #[error("no profile is called {name:?}; there are {known}")]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A workload has what cannot be simulated.
    #[error("client {client}: {problem}")]
    Workload {
        /// Whose.
        client: String,
        /// What.
        problem: String,
    },
    /// A scenario cannot be played as it is written.
    #[error("scenario {name}: {problem}")]
    Scenario {
        /// Its file.
        name: String,
        /// What is wrong, with the key.
        problem: String,
    },
    /// No number of devices will do, or what is asked for makes no sense.
    #[error("plan: {0}")]
    Plan(String),
}
