#pragma once
#include <gmock/gmock.h>
#include <gtest/gtest.h>

/// Runs `statement` and expects an `ErrorType` whose message contains every given part.
/// Example: EXPECT_ERROR(scaler.update(), halfstep::UsageError, "[GradScaler::update]", "call
/// scale() first");
#define EXPECT_ERROR(statement, ErrorType, ...)                                               \
  do {                                                                                        \
    try {                                                                                     \
      statement;                                                                              \
      ADD_FAILURE() << "expected " #ErrorType " from " #statement ", but nothing was thrown"; \
    } catch (const ErrorType& error) {                                                        \
      for (const char* part : {__VA_ARGS__})                                                  \
        EXPECT_THAT(std::string(error.what()), ::testing::HasSubstr(part));                   \
    }                                                                                         \
  } while (false)
