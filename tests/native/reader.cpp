// Reads objects by the C++ client, and prints what it saw: one program for all tests of it.
// Each command prints lines of "key value"; an error is a line "error CODE MESSAGE".
#include <vineyard_arrow/client.h>

#include "fleet.h"  // generated of fleet.py

// The programs of docs/cpp.md.
#define main main_of_delays
#include "delays.cpp"
#undef main
#define main main_of_order
#include "order.cpp"
#undef main

#include <arrow/array.h>
#include <arrow/scalar.h>

#include <sys/wait.h>

#include <charconv>
#include <iostream>
#include <thread>

namespace va = vineyard_arrow;

static void wait_for_line() {
  std::string line;
  std::cout.flush();
  std::getline(std::cin, line);
}

// The sum of a column of int64 or double, and whether its values lie in the store.
static arrow::Status sum(const va::Client& client, const arrow::ChunkedArray& column, double* total, bool* mapped) {
  for (auto& chunk : column.chunks()) {
    *mapped &= client.Contains(chunk->data()->buffers[1]->data());
    for (int64_t i = 0; i < chunk->length(); i++) {
      if (chunk->IsNull(i)) continue;
      if (chunk->type_id() == arrow::Type::INT64) *total += static_cast<arrow::Int64Array&>(*chunk).Value(i);
      else *total += static_cast<arrow::DoubleArray&>(*chunk).Value(i);
    }
  }
  return arrow::Status::OK();
}

static arrow::Status show(const va::Client& client, const va::Object& object) {
  std::cout << "id " << va::format_id(object.id()) << "\nnbytes " << object.nbytes() << "\n";
  for (auto& part : object.parts()) {
    std::cout << "part " << part.type_name() << " " << part.num_rows() << " " << part.num_batches() << " "
              << part.params_text() << "\n";
    ARROW_ASSIGN_OR_RAISE(auto table, part.Table());
    ARROW_RETURN_NOT_OK(table->ValidateFull());
    for (auto& field : table->schema()->fields()) {
      auto column = table->GetColumnByName(field->name());
      std::cout << "column " << field->name() << " " << field->type()->ToString();
      if (column->type()->id() == arrow::Type::INT64 || column->type()->id() == arrow::Type::DOUBLE) {
        double total = 0;
        bool mapped = true;
        ARROW_RETURN_NOT_OK(sum(client, *column, &total, &mapped));
        std::cout << " " << total << " " << (mapped ? "mapped" : "copied");
      } else if (column->length()) {
        std::cout << " " << column->GetScalar(column->length() - 1).ValueOrDie()->ToString();
      }
      std::cout << "\n";
    }
  }
  for (auto& member : object.members()) {
    std::cout << "member " << member.name << " " << member.type_name << "\n";
    ARROW_ASSIGN_OR_RAISE(auto inner, object.Get(member.name));
    ARROW_RETURN_NOT_OK(show(client, inner));
  }
  return arrow::Status::OK();
}

// Prints the sum, waits for a line, and prints it again of the same memory.
static arrow::Status hold(std::shared_ptr<va::Client> client, const std::string& key) {
  std::shared_ptr<arrow::Table> table;
  {
    ARROW_ASSIGN_OR_RAISE(auto object, client->Get(key));
    ARROW_ASSIGN_OR_RAISE(table, object.root().Table());
  }
  for (int i = 0; i < 2; i++) {
    double total = 0;
    bool mapped = true;
    ARROW_RETURN_NOT_OK(sum(*client, *table->column(0), &total, &mapped));
    std::cout << "sum " << total << "\n";
    if (i == 0) wait_for_line();
  }
  std::cout << "again " << va::error_code(client->Get(key).status()) << "\n";
  client.reset();  // the table keeps what it needs
  double total = 0;
  for (int64_t i = 0; i < table->num_rows(); i++)
    total += static_cast<arrow::Int64Array&>(*table->column(0)->chunk(0)).Value(i);
  std::cout << "sum " << total << "\n";
  return arrow::Status::OK();
}

// As JSON, for Python to compare.
static void print(const va::Value& value) {
  if (auto b = value.get_if<bool>()) {
    std::cout << (*b ? "true" : "false");
  } else if (auto i = value.get_if<int64_t>()) {
    std::cout << *i;
  } else if (auto u = value.get_if<uint64_t>()) {
    std::cout << *u;
  } else if (auto x = value.get_if<double>()) {
    char text[32];
    std::cout << std::string(text, std::to_chars(text, text + sizeof(text), *x).ptr);
  } else if (auto s = value.get_if<std::string>()) {
    std::cout << '"';
    for (unsigned char c : *s) {
      char text[8];
      if (c < 32 || c == '"' || c == '\\') std::cout << (snprintf(text, sizeof(text), "\\u%04x", c), text);
      else std::cout << c;
    }
    std::cout << '"';
  } else if (auto list = value.get_if<va::Value::List>()) {
    for (size_t i = 0; i < list->size(); i++) std::cout << (i ? "," : "["), print((*list)[i]);
    std::cout << (list->empty() ? "[]" : "]");
  } else if (auto map = value.get_if<va::Value::Map>()) {
    for (size_t i = 0; i < map->size(); i++)
      std::cout << (i ? "," : "{"), print((*map)[i].first), std::cout << ":", print((*map)[i].second);
    std::cout << (map->empty() ? "{}" : "}");
  } else {
    std::cout << "null";
  }
}

// Gets an object that comes and goes, on several threads, until standard input ends. Each of its
// two columns holds one value all over.
static arrow::Status race(const va::Client& client, const std::string& key) {
  std::atomic<int64_t> gets{0}, torn{0}, errors{0};
  std::atomic<bool> stop{false};
  auto get = [&] {
    while (!stop) {
      auto object = client.Get(key);
      if (!object.ok()) {
        errors += va::error_code(object.status()) != "not-found";
        continue;
      }
      auto table = object->root().Table().ValueOrDie();
      auto& a = static_cast<arrow::Int64Array&>(*table->column(0)->chunk(0));
      auto& b = static_cast<arrow::Int64Array&>(*table->column(1)->chunk(0));
      for (int64_t i = 0; i < a.length(); i++) torn += a.Value(i) != a.Value(0) || b.Value(i) != a.Value(0);
      gets++;
    }
  };
  std::thread first(get), second(get);
  wait_for_line();
  stop = true;
  first.join();
  second.join();
  std::cout << "torn " << torn << "\nerrors " << errors << "\nsome " << (gets > 0) << "\n";
  return arrow::Status::OK();
}

// A forked child lets go of what it inherited, and connects anew; the parent's pin stays.
static arrow::Status forked(std::shared_ptr<va::Client> client, char** argv) {
  ARROW_ASSIGN_OR_RAISE(auto object, client->Get(argv[3]));
  std::cout.flush();
  pid_t pid = fork();
  if (pid == 0) {
    std::cout << "child " << client->Get(argv[3]).status().message() << "\n";
    object = client->Get(argv[3]).ok() ? object : va::Client::Connect(argv[2]).ValueOrDie()->Get(argv[3]).ValueOrDie();
    std::cout << "child rows " << object.root().num_rows() << "\n";
    std::cout.flush();
    _exit(0);
  }
  waitpid(pid, nullptr, 0);
  std::cout << "held\n";
  wait_for_line();
  ARROW_ASSIGN_OR_RAISE(auto table, object.root().Table());
  std::cout << "rows " << table->num_rows() << "\n";
  return table->ValidateFull();
}

template <typename T>
static double total(const va::Array<T>& array) {
  double sum = 0;
  for (const T& x : array.values()) sum += static_cast<double>(x);
  return sum;
}

// A sum of the bytes that an object's arrays and tables show.
static uint64_t checksum(const fleet::Track& t) {
  uint64_t sum = 0;
  auto add = [&](const std::shared_ptr<arrow::Buffer>& buffer) {
    for (int64_t i = 0; buffer && i < buffer->size(); i++) sum = sum * 31 + buffer->data()[i];
  };
  add(t.points.buffer());
  add(t.grid.buffer());
  for (auto& column : t.fixes->columns())
    for (auto& chunk : column->chunks())
      for (auto& buffer : chunk->data()->buffers) add(buffer);
  return sum;
}

static int64_t sum_of(const fleet::Node& node) {
  int64_t sum = node.value;
  if (node.left) sum += sum_of(*node.left);
  if (node.right) sum += sum_of(*node.right);
  for (auto& other : node.others) sum += sum_of(*other);
  return sum;
}

// Every field of a track, one a line.
static arrow::Status show_track(const va::Client& client, const std::string& key) {
  ARROW_ASSIGN_OR_RAISE(fleet::Track t, fleet::Track::Get(client, key));
  uint64_t before = checksum(t);
  auto mapped = [&](auto& array) { return client.Contains(array.buffer()->data()) ? "mapped" : "copied"; };
  auto buffer = [&](const std::shared_ptr<arrow::Array>& a) {
    return client.Contains(a->data()->buffers[1]->data()) ? "mapped" : "copied";
  };
  std::cout.precision(17);
  std::cout << "vehicle " << t.vehicle.name << " " << int{t.vehicle.wheels} << "\n"
            << "points " << total(t.points) << " " << t.points.shape()[0] << " " << t.points.shape()[1] << " "
            << t.points(1, 2) << " " << mapped(t.points) << "\n"
            << "fixes " << t.fixes->num_rows() << " " << buffer(t.fixes->column(0)->chunk(0)) << "\n"
            << "grid " << total(t.grid) << " " << t.grid.is_fortran() << " " << t.grid(1, 0) << " " << mapped(t.grid) << "\n"
            << "whatever " << t.whatever.dtype() << " " << t.whatever.buffer()->size() << "\n"
            << "codes " << t.codes->Value(2) << " " << buffer(t.codes) << "\n"
            << "words " << t.words->num_chunks() << " " << t.words->type()->ToString() << "\n"
            << "batch " << t.batch->num_rows() << " " << t.batch->schema()->ToString() << "\n"
            << "frame " << t.frame->num_rows() << " " << t.frame->num_columns() << "\n"
            << "series " << t.series->length() << "\n"
            << "stamps " << t.stamps(1).time_since_epoch().count() << "\n"
            << "flags " << t.flags(0) << t.flags(1) << "\n"
            << "waves " << t.waves(1).real() << " " << t.waves(1).imag() << "\n"
            << "color " << static_cast<int>(t.color) << "\n"
            << "times " << t.born.time_since_epoch().count() << " " << t.lunch.count() << " " << t.lasts.count() << " "
            << t.seen.time_since_epoch().count() << " " << t.sent.time_since_epoch().count() << "\n"
            << "raw " << t.raw.size() << "\n"
            << "pairs " << std::get<0>(t.pairs) << " " << std::get<1>(t.pairs) << "\n"
            << "counts " << t.counts.size() << " " << t.counts.back() << "\n"
            << "limits " << t.limits.size() << " " << t.limits.at("x") << "\n"
            << "by_day " << t.by_day.at("mo").size() << " " << total(t.by_day.at("mo").at(1)) << "\n"
            << "tree " << sum_of(*t.tree) << "\n"
            << "parked " << t.parked.name << " " << t.parked.load << "\n"
            << "note " << t.note.value_or("none") << "\n"
            << "extra " << (t.extra ? t.extra->num_rows() : -1) << "\n"
            << "mood " << (t.mood ? t.mood == fleet::Mood::good ? "good" : "bad" : "none") << "\n"
            << "label " << t.label.size() << " " << t.delete_ << " " << t.stops.size() << "\n"
            << "untouched " << (checksum(t) == before) << " " << before << "\n";
  return arrow::Status::OK();
}

// An object of one of the smaller classes, defaults and all.
static arrow::Status show_class(const va::Client& client, const std::string& name, const std::string& key) {
  if (name == "Vehicle") {
    ARROW_ASSIGN_OR_RAISE(auto v, fleet::Vehicle::Get(client, key));
    std::cout << v.name << " " << int{v.wheels} << "\n";
  } else if (name == "Node") {
    ARROW_ASSIGN_OR_RAISE(auto node, fleet::Node::Get(client, key));
    std::cout << sum_of(node) << "\n";
  } else {
    ARROW_ASSIGN_OR_RAISE(auto d, fleet::Defaults::Get(client, key));
    std::cout << d.ratio << " " << d.speed << " " << d.least << " " << d.label.size() << " " << d.edge.size() << " "
              << std::get<1>(*d.corner) << " " << d.day.time_since_epoch().count() << " " << d.noon.count() << " "
              << d.week.count() << " " << d.start.time_since_epoch().count() << " " << d.stops.size() << " "
              << total(d.rows) << "\n";
  }
  return arrow::Status::OK();
}

static arrow::Status run(int argc, char** argv) {
  std::string command = argv[1];
  const char* timeout = getenv("READER_TIMEOUT_S");
  ARROW_ASSIGN_OR_RAISE(auto client, va::Client::Connect(argv[2], timeout ? std::stod(timeout) : 10));
  if (command == "show") {
    for (int i = 3; i < argc; i++) {
      ARROW_ASSIGN_OR_RAISE(auto object, client->Get(argv[i]));
      ARROW_RETURN_NOT_OK(show(*client, object));
    }
    return arrow::Status::OK();
  }
  if (command == "hold") return hold(client, argv[3]);
  if (command == "track") return show_track(*client, argv[3]);
  if (command == "class") {
    for (int i = 4; i < argc; i++) {  // each by itself: an error is one's own
      arrow::Status status = show_class(*client, argv[3], argv[i]);
      if (!status.ok()) std::cout << "error " << va::error_code(status) << " " << status.message() << "\n";
    }
    return arrow::Status::OK();
  }
  if (command == "race") return race(*client, argv[3]);
  if (command == "fork") return forked(client, argv);
  if (command == "params") {
    ARROW_ASSIGN_OR_RAISE(auto object, client->Get(argv[3]));
    ARROW_ASSIGN_OR_RAISE(va::Value params, object.root().params());
    print(params);
    std::cout << "\n";
    return arrow::Status::OK();
  }
  return arrow::Status::Invalid("no such command");
}

int main(int argc, char** argv) {
  if (!strcmp(argv[1], "delays")) return main_of_delays(argc - 1, argv + 1);
  if (!strcmp(argv[1], "order")) return main_of_order(argc - 1, argv + 1);
  arrow::Status status = run(argc, argv);
  if (!status.ok())
    std::cout << "error " << va::error_code(status) << " " << status.message() << "\n";
  return 0;
}
