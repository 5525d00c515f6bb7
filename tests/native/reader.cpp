// Reads objects by the C++ client, and prints what it saw: one program for all tests of it.
// Each command prints lines of "key value"; an error is a line "error CODE MESSAGE".
#include <vineyard_arrow/client.h>

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
  arrow::Status status = run(argc, argv);
  if (!status.ok())
    std::cout << "error " << va::error_code(status) << " " << status.message() << "\n";
  return 0;
}
