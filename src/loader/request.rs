//! What a load needs besides its configuration: things that cannot be written to a file.

use std::sync::Arc;

use crate::{
    collective::Collective,
    config::LoadConfig,
    observe::{Observer, Observers},
    place::Shared,
    source::Source,
};

/// A configuration, with the source, observers and shared memory of one load.
///
/// Made from a [`LoadConfig`]:
///
/// ```no_run
/// use firebox::{Cpu, LoadConfig, Loader, model::CausalLm, observe::{Event, Flow}};
///
/// let config = LoadConfig::new("assets/tinyrust").quant("nf4".parse()?);
/// let request = config.observer(|event: &Event<'_>| {
///     println!("{}", event.kind());
///     Flow::Continue
/// });
/// let loaded = Loader::<Cpu>::new(request)?.load::<CausalLm>()?;
/// # Ok::<(), firebox::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct LoadRequest {
    /// What to load and how.
    pub config: LoadConfig,
    /// Files of the caller's; the model that the configuration names is not looked for then.
    pub(super) source: Option<Arc<dyn Source>>,
    pub(super) shared: Option<Shared>,
    pub(crate) ranks: Option<Arc<dyn Collective>>,
    pub(super) observers: Observers,
}

impl From<LoadConfig> for LoadRequest {
    fn from(config: LoadConfig) -> Self {
        Self {
            config,
            source: None,
            shared: None,
            ranks: None,
            observers: Observers::default(),
        }
    }
}

impl LoadRequest {
    /// Changes the configuration: `request.with(|config| config.dtype(DType::F16))`.
    pub fn with(mut self, change: impl FnOnce(LoadConfig) -> LoadConfig) -> Self {
        self.config = change(self.config);
        self
    }

    /// Reads the model from `source`, wherever that keeps its files. The model that the configuration names is not
    /// looked for.
    pub fn source(mut self, source: Arc<dyn Source>) -> Self {
        self.source = Some(source);
        self
    }

    /// Loads together with others: bytes in flight are counted for all of them, by the bound of `shared`, and weights
    /// that are equal are held once.
    pub fn share(mut self, shared: &Shared) -> Self {
        self.shared = Some(shared.clone());
        self
    }

    /// Computes together with other ranks, of which `ranks` is this one: training averages its gradients over all of them.
    pub fn ranks(mut self, ranks: Arc<dyn Collective>) -> Self {
        self.ranks = Some(ranks);
        self
    }

    /// Without observers.
    pub(crate) fn unwatched(mut self) -> Self {
        self.observers = Observers::default();
        self
    }

    /// Adds an observer, which gets every event and may cancel the load.
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }
}

impl LoadConfig {
    /// A request with [a custom source](LoadRequest::source).
    pub fn source(self, source: Arc<dyn Source>) -> LoadRequest {
        LoadRequest::from(self).source(source)
    }

    /// A request that [loads together with others](LoadRequest::share).
    pub fn share(self, shared: &Shared) -> LoadRequest {
        LoadRequest::from(self).share(shared)
    }

    /// A request that [computes together with other ranks](LoadRequest::ranks).
    pub fn ranks(self, ranks: Arc<dyn Collective>) -> LoadRequest {
        LoadRequest::from(self).ranks(ranks)
    }

    /// A request with [an observer](LoadRequest::observer).
    pub fn observer(self, observer: impl Observer + 'static) -> LoadRequest {
        LoadRequest::from(self).observer(observer)
    }
}
