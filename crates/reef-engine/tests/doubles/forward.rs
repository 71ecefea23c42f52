//! What a device around another one does not do otherwise.

/// Methods of `Device` that go to the device inside.
macro_rules! forward {
    ($($name:ident),* $(,)?) => {
        $(forward!(@one $name);)*
    };
    (@one capabilities) => {
        fn capabilities(&self) -> &reef_device::Capabilities {
            self.inner.capabilities()
        }
    };
    (@one cutter) => {
        fn cutter(&self, precision: Option<reef_plan::Precision>) -> std::sync::Arc<dyn reef_plan::Cutter> {
            self.inner.cutter(precision)
        }
    };
    (@one scheme) => {
        fn scheme(&self) -> reef_device::Scheme {
            self.inner.scheme()
        }
    };
    (@one set_scheme) => {
        fn set_scheme(&self, scheme: reef_device::Scheme) {
            self.inner.set_scheme(scheme)
        }
    };
    (@one load) => {
        fn load(
            &self,
            plan: std::sync::Arc<reef_plan::Plan>,
        ) -> Result<reef_device::LoadedPlan, reef_device::DeviceError> {
            self.inner.load(plan)
        }
    };
    (@one unload) => {
        fn unload(&self, plan: reef_device::LoadedPlan) {
            self.inner.unload(plan)
        }
    };
    (@one alloc_io) => {
        fn alloc_io(&self, plan: reef_device::LoadedPlan) -> Option<reef_device::Io> {
            self.inner.alloc_io(plan)
        }
    };
    (@one submit) => {
        fn submit(
            &self,
            plan: reef_device::LoadedPlan,
            key: reef_base::TaskKey,
            io: reef_device::Io,
            token: u64,
        ) -> Result<reef_base::TaskId, reef_device::Rejected> {
            self.inner.submit(plan, key, io, token)
        }
    };
    (@one cancel) => {
        fn cancel(&self, task: reef_base::TaskId) {
            self.inner.cancel(task)
        }
    };
    (@one try_complete) => {
        fn try_complete(&self) -> Option<reef_device::Completion> {
            self.inner.try_complete()
        }
    };
    (@one set_waker) => {
        fn set_waker(&self, waker: std::sync::Arc<dyn reef_device::Wake>) {
            self.inner.set_waker(waker)
        }
    };
    (@one quiesce) => {
        fn quiesce(&self, timeout: std::time::Duration) -> bool {
            self.inner.quiesce(timeout)
        }
    };
    (@one resume) => {
        fn resume(&self) {
            self.inner.resume()
        }
    };
    (@one poison) => {
        fn poison(&self, reason: &str) {
            self.inner.poison(reason)
        }
    };
    (@one fault) => {
        fn fault(&self) -> Option<String> {
            self.inner.fault()
        }
    };
    (@one memory) => {
        fn memory(&self) -> Vec<reef_device::MemoryUse> {
            self.inner.memory()
        }
    };
    (@one counters) => {
        fn counters(&self) -> reef_device::DeviceCounters {
            self.inner.counters()
        }
    };
    (@one block_times) => {
        fn block_times(&self, plan: reef_device::LoadedPlan) -> Vec<Option<u64>> {
            self.inner.block_times(plan)
        }
    };
    (@one record_events) => {
        fn record_events(&self, on: bool) {
            self.inner.record_events(on)
        }
    };
    (@one drain_events) => {
        fn drain_events(&self, events: &mut Vec<reef_device::Event>) -> u64 {
            self.inner.drain_events(events)
        }
    };
}
