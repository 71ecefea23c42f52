# The server in a small image. Build: docker build -t reef .
# Run: docker run -p 8000:8000 -p 8001:8001 -p 8002:8002 -v "$PWD/models:/models:ro" reef

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p reef && strip target/release/reef

FROM debian:bookworm-slim
RUN useradd --system --no-create-home reef
COPY --from=build /src/target/release/reef /usr/local/bin/reef
COPY --from=build /src/LICENSE /usr/share/doc/reef/LICENSE
USER reef
# HTTP, gRPC and metrics.
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
ENTRYPOINT ["reef"]
# The default address is the loopback one, which nobody outside the container reaches.
CMD ["serve", "/models", "--address", "0.0.0.0"]
