//! Who may do what: clients, the credentials they are known by, and what each of them may ask for.
//!
//! Without clients everybody may do everything. With clients a question needs a *right*, unless it is public:
//! a client has those that its settings name, for the models that they name.
//!
//! Invariants: of a secret only its digest is kept, and neither is ever printed; a token is compared with
//! every known one, in constant time, whichever matches. What a client may not use it does not learn about: a
//! model that it may not ask is refused before it is looked for.
//!
//! Files of tokens are read again while the server runs ([`Access::refresh`]): what an account has used of
//! its limits stays, and requests that have begun end as they would. Who was let in for long (a stream, a
//! ring) with a token that counts no more is not served any further ([`Access::check_current`]).
//!
//! A request that asks for a more urgent class or level than its client may have is refused; one that asks
//! for nothing runs with what its model says, but not more urgently than its client may.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use reef_engine::{Class, ClassRequest, InferRequest, Level, Nanos};
use subtle::ConditionallySelectable;
use tokio::sync::watch;
use wildmatch::WildMatch;

use crate::core::problem::Problem;
use crate::core::tokens::{TokenDigest, TokenFile};

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Inference.
    Infer,
    /// Metrics.
    Metrics,
    /// To load and unload models, and to change settings.
    Admin,
}

/// A client and its limits.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// What it is called in logs and refusals.
    pub name: String,
    /// Any of these tokens is its.
    pub tokens: Vec<TokenDigest>,
    /// So is any in this file, which is read again when it changes.
    pub token_file: Option<TokenFile>,
    /// Any certificate with one of these names is its: `CN=trainer,O=Example`, the subject as RFC 4514 writes
    /// it, or one of its alternative names: `dns:NAME`, `uri:URI`, `email:ADDRESS`.
    pub certificates: Vec<String>,
    /// What it may do.
    pub allow: Vec<Right>,
    /// The most urgent class that its requests run with.
    pub class_max: Class,
    /// Names of models that it may ask, `*` for any letters and `?` for one; all, if there are none.
    pub models: Vec<String>,
    /// Inference requests per second, on the average.
    pub requests_per_s: Option<f64>,
    /// Inference requests that may come at once after a pause; by default those of a second.
    pub burst: Option<u32>,
    /// Inference requests that are not answered yet, at most.
    pub in_flight_max: Option<usize>,
}

/// Clients, and what needs none.
#[derive(Clone, Debug)]
pub struct AccessOptions {
    /// Without any, everybody may do everything.
    pub clients: Vec<ClientOptions>,
    /// Whether health is answered without credentials.
    pub public_health: bool,
    /// Whether metrics are.
    pub public_metrics: bool,
}

/// What a question needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it is the same for everybody, and of every server.
    Nothing,
    /// Whether the server lives and takes requests.
    Health,
    /// Metrics.
    Metrics,
    /// Descriptions and statistics of server and models: any client.
    Read,
    /// Inference.
    Infer,
    /// To change what is served, or how.
    Admin,
}

/// What a connection and a request show.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Credentials<'a> {
    /// A bearer token or an API key.
    pub(crate) token: Option<&'a [u8]>,
    /// The names in the certificate that the client's connection was opened with.
    pub(crate) names: &'a [String],
}

/// Everybody that is known.
#[derive(Debug)]
pub(crate) struct Access {
    accounts: Vec<Arc<Account>>,
    /// Every token, with the number of its account.
    known: RwLock<Arc<[(TokenDigest, u64)]>>,
    /// Files of tokens, with the numbers of their accounts.
    files: Mutex<Vec<(TokenFile, u64)>>,
    /// Tells when tokens have changed.
    changes: watch::Sender<()>,
    public_health: bool,
    public_metrics: bool,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Client(Who);

#[derive(Clone, Debug)]
enum Who {
    /// Anybody, where nobody is told apart.
    Anybody,
    /// Nobody that is known, who may ask for what is public, and sees no model.
    Public,
    /// By this token, or by something that is never taken back.
    Known(Arc<Account>, Option<TokenDigest>),
}

/// A request that counts as unanswered until this is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Option<Arc<Account>>);

#[derive(Debug)]
struct Account {
    options: ClientOptions,
    models: Vec<WildMatch>,
    in_flight: AtomicUsize,
    bucket: Option<Mutex<Bucket>>,
}

/// A token bucket: full it holds `burst` requests, and it fills by `per_s`.
#[derive(Debug)]
struct Bucket {
    level: f64,
    filled: Nanos,
    burst: f64,
    per_s: f64,
}

impl Default for AccessOptions {
    /// Everybody may do everything.
    fn default() -> Self {
        AccessOptions { clients: Vec::new(), public_health: true, public_metrics: false }
    }
}

impl ClientOptions {
    /// One that may infer, with every class and without limits, and has no credentials yet.
    pub fn new(name: impl Into<String>) -> ClientOptions {
        ClientOptions {
            name: name.into(),
            tokens: Vec::new(),
            token_file: None,
            certificates: Vec::new(),
            allow: vec![Right::Infer],
            class_max: Class::RealTime(Level::TOP),
            models: Vec::new(),
            requests_per_s: None,
            burst: None,
            in_flight_max: None,
        }
    }
}

impl Access {
    /// Of these clients.
    pub(crate) fn new(options: AccessOptions) -> Access {
        let AccessOptions { mut clients, public_health, public_metrics } = options;
        let files = (0..).zip(&mut clients);
        let files = files.filter_map(|(index, client)| Some((client.token_file.take()?, index))).collect();
        let access = Access {
            accounts: clients.into_iter().map(|client| Arc::new(Account::new(client))).collect(),
            known: RwLock::new(Arc::from([])),
            files: Mutex::new(files),
            changes: watch::Sender::new(()),
            public_health,
            public_metrics,
        };
        access.know(&access.files.lock().unwrap_or_else(PoisonError::into_inner));
        access
    }

    /// Whether there are files of tokens, which may change.
    pub(crate) fn has_files(&self) -> bool {
        !self.files.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Reads the files of tokens again. One that cannot be used is told once, and its tokens of before stay.
    /// Blocks.
    pub(crate) fn refresh(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for at in 0..files.len() {
            let (file, index) = &files[at];
            let name = &self.accounts[*index as usize].options.name;
            let read = file.read_again().and_then(|new| match self.other_owner(&files, *index, &new) {
                None => Ok(new),
                Some(other) => Err(format!("a token in {} is that of '{other}'", file.path().display())),
            });
            match read {
                Ok(new) if new.tokens() != file.tokens() => {
                    tracing::info!(client = name, tokens = new.tokens().len(), "tokens read again");
                    files[at].0 = new;
                    changed = true;
                }
                Ok(new) => files[at].0 = new,
                Err(why) => {
                    if files[at].0.complain(&why) {
                        tracing::error!(client = name, "the tokens of before stay in use: {why}");
                    }
                }
            }
        }
        self.know(&files);
        if changed {
            self.changes.send_replace(());
        }
    }

    /// Says when tokens have changed, from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// An error if the token that a client was known by counts no more.
    pub(crate) fn check_current(&self, client: &Client) -> Result<(), Problem> {
        let Who::Known(account, Some(token)) = &client.0 else { return Ok(()) };
        match self.by_digest(token).is_some_and(|owner| Arc::ptr_eq(owner, account)) {
            true => Ok(()),
            false => {
                let name = &account.options.name;
                Err(Problem::unauthenticated(format!("the token by which '{name}' was known counts no more")))
            }
        }
    }

    /// Whose a token of a file is too, if not only that account's.
    fn other_owner(&self, files: &[(TokenFile, u64)], own: u64, new: &TokenFile) -> Option<&str> {
        let in_files =
            files.iter().flat_map(|(file, index)| file.tokens().iter().map(|token| (token, *index)));
        let all = (0..)
            .zip(&self.accounts)
            .flat_map(|(index, account)| account.options.tokens.iter().map(move |token| (token, index)));
        let mut others = all.chain(in_files).filter(|(_, index)| *index != own);
        let (_, other) = others.find(|(token, _)| new.tokens().contains(token))?;
        Some(&self.accounts[other as usize].options.name)
    }

    /// Goes by these files from now on.
    fn know(&self, files: &[(TokenFile, u64)]) {
        let stated = (0..).zip(&self.accounts).flat_map(|(index, account)| {
            account.options.tokens.iter().map(move |token| (token.clone(), index))
        });
        let read =
            files.iter().flat_map(|(file, index)| file.tokens().iter().map(|token| (token.clone(), *index)));
        let known = stated.chain(read).collect();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Whether credentials matter for what needs this.
    pub(crate) fn asks(&self, need: Need) -> bool {
        let public = match need {
            Need::Nothing => true,
            Need::Health => self.public_health,
            Need::Metrics => self.public_metrics,
            Need::Read | Need::Infer | Need::Admin => false,
        };
        !public && !self.accounts.is_empty()
    }

    /// Who it is that shows these credentials and has what is needed.
    pub(crate) fn check(&self, credentials: &Credentials<'_>, need: Need) -> Result<Client, Problem> {
        if self.accounts.is_empty() {
            return Ok(Client::anybody());
        }
        let identified = self.identify(credentials);
        if !self.asks(need) {
            return Ok(identified.unwrap_or(Client(Who::Public)));
        }
        let Some(client) = identified else {
            let shown = credentials.token.is_some() || !credentials.names.is_empty();
            return Err(Problem::unauthenticated(match shown {
                true => "nobody is known by these credentials",
                false => "this needs credentials: a bearer token, an API key or a certificate",
            }));
        };
        client.check(need)?;
        Ok(client)
    }

    /// The client of this name, for who is known by something else than credentials.
    pub(crate) fn named(&self, name: &str) -> Option<Client> {
        let account = self.accounts.iter().find(|account| account.options.name == name)?;
        Some(Client(Who::Known(account.clone(), None)))
    }

    /// A token that is shown decides, also against a certificate.
    fn identify(&self, credentials: &Credentials<'_>) -> Option<Client> {
        let (account, token) = match credentials.token {
            Some(token) => {
                let token = TokenDigest::digest(token);
                (self.by_digest(&token)?, Some(token))
            }
            None => {
                let named = |account: &&Arc<Account>| {
                    account.options.certificates.iter().any(|name| credentials.names.contains(name))
                };
                (self.accounts.iter().find(named)?, None)
            }
        };
        Some(Client(Who::Known(account.clone(), token)))
    }

    fn by_digest(&self, shown: &TokenDigest) -> Option<&Arc<Account>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut found = u64::MAX;
        for (known, index) in known.iter() {
            found.conditional_assign(index, known.is(shown));
        }
        self.accounts.get(usize::try_from(found).ok()?)
    }
}

impl Client {
    /// One that may do everything.
    pub(crate) fn anybody() -> Client {
        Client(Who::Anybody)
    }

    fn account(&self) -> Option<&Arc<Account>> {
        match &self.0 {
            Who::Known(account, _) => Some(account),
            Who::Anybody | Who::Public => None,
        }
    }

    /// Whether it is one of those that have limits.
    pub(crate) fn is_known(&self) -> bool {
        self.account().is_some()
    }

    /// Whether it is known by something that may count no more while it is served.
    pub(crate) fn is_revocable(&self) -> bool {
        matches!(self.0, Who::Known(_, Some(_)))
    }

    /// What it is called, for logs.
    pub(crate) fn name(&self) -> &str {
        self.account().map_or("-", |account| &account.options.name)
    }

    /// Whether it may ask about this model.
    pub(crate) fn sees(&self, model: &str) -> bool {
        match &self.0 {
            Who::Anybody => true,
            Who::Public => false,
            Who::Known(account, _) => account.sees(model),
        }
    }

    /// An error if it may not do what needs this.
    pub(crate) fn check(&self, need: Need) -> Result<(), Problem> {
        match &self.0 {
            Who::Known(account, _) if !account.has(need) => {
                Err(Problem::forbidden(format!("'{}' may not do this", account.options.name)))
            }
            _ => Ok(()),
        }
    }

    /// An error if it may not ask about this model, whether there is one or not.
    pub(crate) fn check_model(&self, model: &str) -> Result<(), Problem> {
        match self.sees(model) {
            true => Ok(()),
            false => Err(Problem::forbidden(format!("'{}' may not use the model '{model}'", self.name()))),
        }
    }

    /// The class of a model's requests that ask for none.
    pub(crate) fn class(&self, configured: Class) -> Class {
        self.account().map_or(configured, |account| less_urgent(configured, account.options.class_max))
    }

    /// Keeps a request to a model of this class within what its client may have.
    pub(crate) fn limit(&self, request: &mut InferRequest<'_>, configured: Class) -> Result<(), Problem> {
        let Some(account) = self.account() else { return Ok(()) };
        let class_max = account.options.class_max;
        let refused = || {
            let most = match class_max {
                Class::RealTime(level) => format!("real-time level {}", level.get()),
                Class::BestEffort => "best-effort".to_string(),
            };
            Err(Problem::forbidden(format!("'{}' may ask for {most} at most", account.options.name)))
        };
        match (class_max, request.class) {
            (_, Some(ClassRequest::BestEffort)) => {}
            (Class::BestEffort, Some(ClassRequest::RealTime)) => return refused(),
            (Class::BestEffort, None) if request.priority != 0 => return refused(),
            (Class::BestEffort, None) => request.class = Some(ClassRequest::BestEffort),
            (Class::RealTime(most), _) => {
                let priority_min = u32::from(most.get()) + 1;
                match (request.priority, configured) {
                    (0, Class::RealTime(own)) if own < most => request.priority = priority_min,
                    (0, _) => {}
                    (asked, _) if asked < priority_min => return refused(),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Counts an inference request, if its client's limits leave room for it now.
    pub(crate) fn admit(&self, now: Nanos) -> Result<Permit, Problem> {
        let Some(account) = self.account() else { return Ok(Permit(None)) };
        let name = &account.options.name;
        let in_flight_max = account.options.in_flight_max.unwrap_or(usize::MAX);
        // A counter orders nothing.
        let counted = account.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            (now < in_flight_max).then_some(now + 1)
        });
        if counted.is_err() {
            let message =
                format!("'{name}' has {in_flight_max} requests in flight, which is all it may have");
            return Err(Problem::limited(message, 1));
        }
        // Given back below if there is no room in the bucket.
        let permit = Permit(Some(account.clone()));
        if let Some(bucket) = &account.bucket {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(wait) = bucket.take(now) {
                let per_s = bucket.per_s;
                let message = format!("'{name}' asks more often than its {per_s} requests per second");
                return Err(Problem::limited(message, wait));
            }
        }
        Ok(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(account) = &self.0 {
            account.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Account {
    fn new(options: ClientOptions) -> Account {
        let bucket = options.requests_per_s.map(|per_s| {
            let burst = options.burst.map_or(per_s.max(1.0), f64::from);
            Mutex::new(Bucket { level: burst, filled: Nanos(0), burst, per_s })
        });
        let models = options.models.iter().map(|pattern| WildMatch::new(pattern)).collect();
        Account { models, in_flight: AtomicUsize::new(0), bucket, options }
    }

    fn has(&self, need: Need) -> bool {
        let allow = |right| self.options.allow.contains(&right);
        match need {
            Need::Nothing | Need::Health => true,
            Need::Read => allow(Right::Infer) || allow(Right::Admin),
            Need::Metrics => allow(Right::Metrics),
            Need::Infer => allow(Right::Infer),
            Need::Admin => allow(Right::Admin),
        }
    }

    fn sees(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| pattern.matches(model))
    }
}

impl Bucket {
    /// Takes one; else the whole seconds after which there is one.
    fn take(&mut self, now: Nanos) -> Result<(), u32> {
        let passed = now.0.saturating_sub(self.filled.0) as f64 / 1e9;
        self.level = (self.level + passed * self.per_s).min(self.burst);
        self.filled = self.filled.max(now);
        if self.level >= 1.0 {
            self.level -= 1.0;
            return Ok(());
        }
        Err(((1.0 - self.level) / self.per_s).ceil().clamp(1.0, f64::from(u32::MAX)) as u32)
    }
}

fn less_urgent(a: Class, b: Class) -> Class {
    match (a, b) {
        (Class::RealTime(a), Class::RealTime(b)) => Class::RealTime(a.max(b)),
        (Class::BestEffort, _) | (_, Class::BestEffort) => Class::BestEffort,
    }
}

#[cfg(test)]
mod tests;
