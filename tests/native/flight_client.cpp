// A stock Flight client in C++, of Arrow's own library, that knows nothing of us.
//
// Usage: flight_client LOCATION ROOT_CERTS TOKEN NAME. Puts a table of 1,000 rows under NAME,
// lists what there is, gets it back, and prints what it saw.

#include <arrow/api.h>
#include <arrow/flight/api.h>

#include <fstream>
#include <iostream>
#include <sstream>

namespace flight = arrow::flight;

arrow::Status run(char** arguments) {
  std::stringstream certs;
  certs << std::ifstream(arguments[2]).rdbuf();
  flight::FlightClientOptions options = flight::FlightClientOptions::Defaults();
  options.tls_root_certs = certs.str();
  ARROW_ASSIGN_OR_RAISE(auto location, flight::Location::Parse(arguments[1]));
  ARROW_ASSIGN_OR_RAISE(auto client, flight::FlightClient::Connect(location, options));
  flight::FlightCallOptions call;
  call.timeout = flight::TimeoutDuration(20.0);
  call.headers.emplace_back("authorization", "Bearer " + std::string(arguments[3]));

  arrow::Int64Builder builder;
  for (int64_t i = 0; i < 1000; ++i) ARROW_RETURN_NOT_OK(builder.Append(i * i));
  ARROW_ASSIGN_OR_RAISE(auto squares, builder.Finish());
  auto schema = arrow::schema({arrow::field("square", arrow::int64())});
  auto batch = arrow::RecordBatch::Make(schema, 1000, {squares});
  const auto descriptor = flight::FlightDescriptor::Path({arguments[4]});
  ARROW_ASSIGN_OR_RAISE(auto put, client->DoPut(call, descriptor, schema));
  ARROW_RETURN_NOT_OK(put.writer->WriteRecordBatch(*batch));
  ARROW_RETURN_NOT_OK(put.writer->DoneWriting());
  std::shared_ptr<arrow::Buffer> id;
  ARROW_RETURN_NOT_OK(put.reader->ReadMetadata(&id));
  ARROW_RETURN_NOT_OK(put.writer->Close());
  std::cout << id->ToString() << "\n";

  ARROW_ASSIGN_OR_RAISE(auto listing, client->ListFlights(call, {""}));
  while (true) {
    ARROW_ASSIGN_OR_RAISE(auto info, listing->Next());
    if (info == nullptr) break;
    for (const auto& step : info->descriptor().path) std::cout << step << " ";
    std::cout << info->total_records() << "\n";
    ARROW_ASSIGN_OR_RAISE(auto stream, client->DoGet(call, info->endpoints()[0].ticket));
    ARROW_ASSIGN_OR_RAISE(auto table, stream->ToTable());
    ARROW_ASSIGN_OR_RAISE(auto last, table->column(0)->GetScalar(table->num_rows() - 1));
    std::cout << table->schema()->ToString() << ", the last is " << last->ToString() << "\n";
  }
  return arrow::Status::OK();
}

int main(int count, char** arguments) {
  if (count != 5) return 2;
  const arrow::Status status = run(arguments);
  if (!status.ok()) std::cerr << status.ToString() << "\n";
  return !status.ok();
}
