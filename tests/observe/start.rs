//! Handles: looked at, waited for, awaited, cancelled, dropped.

use std::{
    fs,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use firebox::{
    Error, LoadConfig, LoadRequest, Loaded, Loading, Saving,
    config::SaveConfig,
    model::{Architecture, BuildError, CausalLm, ConfigError, Slot, Weights},
    observe::{Event, Flow, Progress},
    pipeline::PipelineError,
};
use tempfile::TempDir;

use crate::{
    common::{Tiny, tiny},
    loader, tinyrust,
};

fn cancelled<R>(result: Result<R, Error>) -> (String, usize, usize) {
    match result.map(|_| ()) {
        Err(Error::Pipeline(PipelineError::Cancelled { at, done, total })) => (at, done, total),
        other => panic!("{other:?}"),
    }
}

/// A load whose observer waits for leave at every started tensor.
fn held() -> (LoadRequest, mpsc::Sender<()>, Arc<AtomicUsize>) {
    let (leave, wait) = mpsc::channel();
    let (wait, told) = (Mutex::new(wait), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&told);
    let config = LoadConfig::default()
        .source(tiny())
        .observer(move |event: &Event<'_>| {
            count.fetch_add(1, Ordering::SeqCst);
            if let Event::Started { .. } = event {
                // An error: nobody is left to give leave.
                let _ = wait.lock().unwrap().recv();
            }
            Flow::Continue
        });
    (config, leave, told)
}

fn until(what: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !what() {
        assert!(Instant::now() < patience, "it never came");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Would catch a handle that gives something else than a load does, or that cannot go to another thread.
#[test]
fn what_is_started_comes_out_as_from_a_load() {
    fn sendable<V: Send + 'static>(value: V) -> V {
        value
    }
    let expected = loader(tinyrust("nf4")).load::<CausalLm>().unwrap();
    let loading: Loading<CausalLm> = sendable(loader(tinyrust("nf4")).start::<CausalLm>());
    let loaded = sendable(loading.wait().unwrap());
    assert_eq!(loaded.report.bytes_packed, expected.report.bytes_packed);
    let ids = |loaded: &Loaded<CausalLm>| {
        let options = firebox::model::GenerateOptions {
            max_new_tokens: 4,
            ..Default::default()
        };
        let go_on = |_| std::ops::ControlFlow::Continue(());
        firebox::model::generate(&loaded.model, &[3, 5, 8], &options, go_on)
            .unwrap()
            .ids
    };
    assert_eq!(ids(&loaded), ids(&expected));
}

/// Would catch progress that stands still, runs ahead, or is counted in something else than source bytes.
#[test]
fn progress_is_that_of_the_moment() {
    let (config, leave, _) = held();
    let loading = loader(config).start::<Tiny>();
    // In the order of the file, as `f32`.
    let tensors = [
        ("down.weight", 76_800),
        ("norm.weight", 800),
        ("up.bias", 384),
        ("up.weight", 76_800),
    ];
    let mut bytes = 0;
    for (k, (name, size)) in tensors.into_iter().enumerate() {
        until(|| loading.progress().current.as_deref() == Some(name));
        let progress = loading.progress();
        assert_eq!((progress.tensors, progress.tensors_total), (k, 4));
        assert_eq!((progress.bytes, progress.bytes_total), (bytes, 154_784));
        assert_eq!(progress.fraction(), bytes as f64 / 154_784.0);
        assert!(!loading.is_finished() && !progress.finished);
        bytes += size;
        leave.send(()).unwrap();
    }
    until(|| loading.is_finished());
    let progress = loading.progress();
    assert_eq!(
        (progress.bytes, progress.tensors, progress.current),
        (154_784, 4, None)
    );
    assert!(progress.finished);
    loading.wait().unwrap();
}

/// One scale for a whole tensor takes two readings. Would catch progress beyond the end, and progress that goes back.
#[test]
fn a_tensor_that_is_read_twice_counts_once() {
    let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let (all, progress) = (Arc::clone(&seen), Mutex::new(Progress::default()));
    let config = LoadConfig::default()
        .quant("fp8:e4m3,scale=tensor".parse().unwrap())
        .in_flight_bytes_max(16 << 10)
        .source(tiny())
        .observer(move |event: &Event<'_>| {
            let mut progress = progress.lock().unwrap();
            progress.observe(event);
            all.lock().unwrap().push(progress.clone());
            Flow::Continue
        });
    loader(config).load::<Tiny>().unwrap();
    let seen = seen.lock().unwrap();
    let bytes: Vec<u64> = seen.iter().map(|progress| progress.bytes).collect();
    assert!(bytes.is_sorted(), "{bytes:?}");
    assert_eq!((bytes[0], bytes.last()), (0, Some(&154_784)));
    // Within a tensor it moves, too.
    assert!(
        bytes.iter().any(|bytes| (1..76_800).contains(bytes)),
        "{bytes:?}"
    );
    assert!(seen.iter().all(|progress| progress.fraction() <= 1.0));
}

/// Would catch a cancel that waits, one that is lost, and one that hurts a load that is done.
#[test]
fn a_handle_cancels_at_the_next_event() {
    let (config, leave, told) = held();
    let loading = loader(config).start::<Tiny>();
    leave.send(()).unwrap();
    until(|| loading.progress().current.as_deref() == Some("norm.weight"));
    loading.cancel();
    let before = told.load(Ordering::SeqCst);
    leave.send(()).unwrap();
    assert_eq!(cancelled(loading.wait()), ("norm.weight".to_owned(), 1, 4));
    // The one after `Started`, whose answer was given before the cancel or after it.
    assert!(told.load(Ordering::SeqCst) <= before + 1);

    let done = loader(LoadConfig::default().source(tiny())).start::<Tiny>();
    until(|| done.is_finished());
    done.cancel();
    done.wait().unwrap();
}

/// Would catch handles that are mixed up because their loads were configured together.
#[test]
fn loads_of_one_configuration_are_cancelled_one_by_one() {
    let (config, leave, _) = held();
    let [one, other] = [config.clone(), config].map(|config| loader(config).start::<Tiny>());
    until(|| one.progress().current.is_some() && other.progress().current.is_some());
    one.cancel();
    drop(leave);
    cancelled(one.wait());
    other.wait().expect("nobody cancelled it");
}

/// Would catch a load that goes on with nobody to give it to.
#[test]
fn dropping_the_handle_stops_the_load_and_waits_for_it() {
    let (config, leave, told) = held();
    let source = tiny();
    let loading = loader(config).start::<Tiny>();
    until(|| loading.progress().current.is_some());
    // Gives leave for everything, once the drop has begun.
    let later = thread::spawn(move || {
        thread::sleep(Duration::from_millis(30));
        drop(leave);
    });
    drop(loading);
    let at_the_drop = told.load(Ordering::SeqCst);
    assert!(
        at_the_drop < 6,
        "{at_the_drop} events of a load that was stopped at its first tensor"
    );
    later.join().unwrap();
    thread::sleep(Duration::from_millis(30));
    assert_eq!(told.load(Ordering::SeqCst), at_the_drop);
    assert_eq!(Arc::strong_count(&source), 1);
}

/// Would catch a thread that waits for itself; the test would not end.
#[test]
fn an_observer_may_drop_the_handle_of_its_own_load() {
    let own: Arc<Mutex<Option<Loading<Tiny>>>> = Arc::default();
    let (handle, (done, ended)) = (Arc::clone(&own), mpsc::channel());
    let done = Mutex::new(done);
    let config = LoadConfig::default()
        .source(tiny())
        .observer(move |event: &Event<'_>| {
            if let Event::Started { .. } = event {
                let handle = loop {
                    if let Some(handle) = handle.lock().unwrap().take() {
                        break handle;
                    }
                };
                drop(handle);
                done.lock().unwrap().send(()).unwrap();
                return Flow::Cancel;
            }
            Flow::Continue
        });
    *own.lock().unwrap() = Some(loader(config).start::<Tiny>());
    ended
        .recv_timeout(Duration::from_secs(30))
        .expect("the observer goes on");
}

/// A thread that waits for a future, and the number of times it was woken.
struct Sleeper(Thread, AtomicUsize);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.unpark();
    }
}

/// A runtime in ten lines: what an async program needs is no more than this.
fn block_on<F: Future>(future: F) -> (F::Output, usize) {
    let sleeper = Arc::new(Sleeper(thread::current(), AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&sleeper));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return (output, sleeper.1.load(Ordering::SeqCst));
        }
        thread::park_timeout(Duration::from_secs(30));
    }
}

/// Would catch a future that is never woken (the test would take 30 s and fail), or polled awake.
#[test]
fn a_load_can_be_awaited() {
    let (config, leave, _) = held();
    let loading = loader(config).start::<Tiny>();
    let later = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        drop(leave);
    });
    let started = Instant::now();
    let (loaded, woken) = block_on(async { loading.await.map(|loaded| loaded.report.tensors) });
    assert_eq!((loaded.unwrap(), woken), (4, 1));
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "nobody woke it"
    );
    later.join().unwrap();

    let ready = loader(LoadConfig::default().source(tiny())).start::<Tiny>();
    until(|| ready.is_finished());
    let (loaded, woken) = block_on(ready);
    assert_eq!((loaded.unwrap().report.tensors, woken), (4, 0));
}

/// Would catch a future that keeps the first waker it has seen: it may have moved to another task.
#[test]
fn who_polled_last_is_woken() {
    let (config, leave, _) = held();
    let mut loading = loader(config).start::<Tiny>();
    let sleepers = [0, 1].map(|_| Arc::new(Sleeper(thread::current(), AtomicUsize::new(0))));
    for sleeper in &sleepers {
        let waker = Waker::from(Arc::clone(sleeper));
        let polled = Pin::new(&mut loading).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    drop(leave);
    until(|| sleepers[1].1.load(Ordering::SeqCst) == 1);
    assert_eq!(sleepers[0].1.load(Ordering::SeqCst), 0);
}

/// [`Tiny`], which cannot be built.
#[derive(Debug)]
struct Explosive;

impl Architecture for Explosive {
    type Config = ();
    fn config(json: &serde_json::Value) -> Result<(), ConfigError> {
        Tiny::config(json)
    }
    fn slots(config: &()) -> Vec<Slot> {
        Tiny::slots(config)
    }
    fn build(_: &(), _: &mut Weights) -> Result<Self, BuildError> {
        panic!("out of luck")
    }
}

/// Would catch a panic that is swallowed, and a future that then never ends.
#[test]
fn a_panic_of_the_load_comes_out_where_it_is_waited_for() {
    type Wait = fn(Loading<Explosive>);
    for wait in [(|loading| drop(loading.wait())) as Wait, |loading| {
        drop(block_on(loading));
    }] {
        let loading = loader(LoadConfig::default().source(tiny())).start::<Explosive>();
        let panic = catch_unwind(AssertUnwindSafe(|| wait(loading))).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"out of luck"));
    }
    // Who does not look does not see.
    drop(loader(LoadConfig::default().source(tiny())).start::<Explosive>());
}

/// Would catch a save that is another than that of `save`.
#[test]
fn a_save_can_be_started() {
    let folder = TempDir::new().unwrap();
    let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
    let expected = loader(tinyrust("nf4"))
        .save::<CausalLm>(&SaveConfig::new(&one))
        .unwrap();
    let saving: Saving = loader(tinyrust("nf4")).start_save::<CausalLm>(SaveConfig::new(&other));
    let saved = saving.wait().unwrap();
    assert_eq!(saved.files, expected.files);
    for file in &saved.files {
        assert_eq!(
            fs::read(one.join(file)).unwrap(),
            fs::read(other.join(file)).unwrap()
        );
    }
}
