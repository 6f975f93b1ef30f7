// Memory for one thread's work, taken once and cut into aligned parts.
#pragma once

#include <cstdint>
#include <memory>

class Scratch {
 public:
  explicit Scratch(size_t bytes) : room_(new char[bytes + 64 * MOST_PARTS]), next_(align(room_.get())) {}

  // All of it free again.
  void clear() { next_ = align(room_.get()); }

  // `count` values, uninitialised, at a multiple of 64 bytes.
  template <class T>
  T* take(size_t count) {
    T* part = reinterpret_cast<T*>(next_);
    next_ = align(next_ + count * sizeof(T));
    return part;
  }

 private:
  static constexpr size_t MOST_PARTS = 16;
  static char* align(char* at) { return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(at) + 63) & ~uintptr_t{63}); }
  std::unique_ptr<char[]> room_;
  char* next_;
};

// A scratch that is made again only when more is wanted.
class Kept {
 public:
  Scratch& of(size_t bytes) {
    if (bytes > bytes_) {
      bytes_ = 0;
      scratch_ = Scratch(0);  // what there was goes first
      scratch_ = Scratch(bytes);
      bytes_ = bytes;
    }
    scratch_.clear();
    return scratch_;
  }

 private:
  size_t bytes_ = 0;
  Scratch scratch_{0};
};
