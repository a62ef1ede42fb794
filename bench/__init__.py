"""Benchmarks: `./dev bench`. They print ratios that were taken in one run; nothing here is a test."""
