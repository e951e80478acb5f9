FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin floe

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 floe && mkdir /data && chown floe /data
COPY --from=build /src/target/release/floe /usr/local/bin/floe
USER floe
VOLUME /data
EXPOSE 9092 29092 8080
ENTRYPOINT ["floe"]
CMD ["serve"]
